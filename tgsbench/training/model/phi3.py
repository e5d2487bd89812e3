"""Phi-3 as transformers builds it; its one gate_up product is left as it is."""

from __future__ import annotations

from transformers.models.phi3 import modeling_phi3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_phi3, "Phi3", has_mlp=False)
