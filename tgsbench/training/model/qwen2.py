"""Qwen2 as transformers builds it."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2Model
from transformers.models.qwen2 import modeling_qwen2

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Qwen2Config,
    decoder_class=Qwen2Model,
    rotary_class=modeling_qwen2.Qwen2RotaryEmbedding,
    norm_class=modeling_qwen2.Qwen2RMSNorm,
    mlp_class=modeling_qwen2.Qwen2MLP,
    module=modeling_qwen2,
)
