"""Mixtral as transformers builds it."""

from __future__ import annotations

from transformers import MixtralConfig, MixtralModel
from transformers.models.mixtral import modeling_mixtral

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=MixtralConfig,
    decoder_class=MixtralModel,
    rotary_class=modeling_mixtral.MixtralRotaryEmbedding,
    norm_class=modeling_mixtral.MixtralRMSNorm,
    mlp_class=None,
    module=modeling_mixtral,
)
