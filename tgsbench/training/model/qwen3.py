"""Qwen3 as transformers builds it."""

from __future__ import annotations

from transformers import Qwen3Config, Qwen3Model
from transformers.models.qwen3 import modeling_qwen3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Qwen3Config,
    decoder_class=Qwen3Model,
    rotary_class=modeling_qwen3.Qwen3RotaryEmbedding,
    norm_class=modeling_qwen3.Qwen3RMSNorm,
    mlp_class=modeling_qwen3.Qwen3MLP,
    module=modeling_qwen3,
)
