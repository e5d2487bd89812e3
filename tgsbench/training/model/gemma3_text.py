"""Gemma 3 as transformers builds it; its norms, which multiply by 1 + weight, and its GELU are left."""

from __future__ import annotations

from transformers import Gemma3TextConfig, Gemma3TextModel
from transformers.models.gemma3 import modeling_gemma3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Gemma3TextConfig,
    decoder_class=Gemma3TextModel,
    rotary_class=modeling_gemma3.Gemma3RotaryEmbedding,
    norm_class=None,
    mlp_class=None,
    module=modeling_gemma3,
    norm_value=0.0,
)
