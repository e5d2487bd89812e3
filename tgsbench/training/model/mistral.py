"""Mistral as transformers builds it."""

from __future__ import annotations

from transformers import MistralConfig, MistralModel
from transformers.models.mistral import modeling_mistral

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=MistralConfig,
    decoder_class=MistralModel,
    rotary_class=modeling_mistral.MistralRotaryEmbedding,
    norm_class=modeling_mistral.MistralRMSNorm,
    mlp_class=modeling_mistral.MistralMLP,
    module=modeling_mistral,
)
