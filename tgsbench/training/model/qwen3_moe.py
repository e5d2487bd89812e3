"""Qwen3 with experts as transformers builds it."""

from __future__ import annotations

from transformers import Qwen3MoeConfig, Qwen3MoeModel
from transformers.models.qwen3_moe import modeling_qwen3_moe

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Qwen3MoeConfig,
    decoder_class=Qwen3MoeModel,
    rotary_class=modeling_qwen3_moe.Qwen3MoeRotaryEmbedding,
    norm_class=modeling_qwen3_moe.Qwen3MoeRMSNorm,
    mlp_class=modeling_qwen3_moe.Qwen3MoeMLP,
    module=modeling_qwen3_moe,
)
