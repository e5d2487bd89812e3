"""Gemma 2 as transformers builds it; its norms, which multiply by 1 + weight, and its GELU are left."""

from __future__ import annotations

from transformers import Gemma2Config, Gemma2Model
from transformers.models.gemma2 import modeling_gemma2

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Gemma2Config,
    decoder_class=Gemma2Model,
    rotary_class=modeling_gemma2.Gemma2RotaryEmbedding,
    norm_class=None,
    mlp_class=None,
    module=modeling_gemma2,
    norm_value=0.0,
)
