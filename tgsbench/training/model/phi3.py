"""Phi-3 as transformers builds it; its one gate_up product is left as it is."""

from __future__ import annotations

from transformers import Phi3Config, Phi3Model
from transformers.models.phi3 import modeling_phi3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Phi3Config,
    decoder_class=Phi3Model,
    rotary_class=modeling_phi3.Phi3RotaryEmbedding,
    norm_class=modeling_phi3.Phi3RMSNorm,
    mlp_class=None,
    module=modeling_phi3,
)
