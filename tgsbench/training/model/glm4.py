"""GLM-4 of 2025 as transformers builds it; its one gate_up product is left as it is."""

from __future__ import annotations

from transformers.models.glm4 import modeling_glm4

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_glm4, "Glm4", has_mlp=False, turns_pairs=True)
