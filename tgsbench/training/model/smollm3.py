"""SmolLM3 as transformers builds it."""

from __future__ import annotations

from transformers.models.smollm3 import modeling_smollm3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_smollm3, "SmolLM3")
