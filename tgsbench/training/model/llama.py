"""Llama as transformers builds it."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaModel
from transformers.models.llama import modeling_llama

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=LlamaConfig,
    decoder_class=LlamaModel,
    rotary_class=modeling_llama.LlamaRotaryEmbedding,
    norm_class=modeling_llama.LlamaRMSNorm,
    mlp_class=modeling_llama.LlamaMLP,
    module=modeling_llama,
)
