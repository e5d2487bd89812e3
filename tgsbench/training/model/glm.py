"""GLM-4 of 2024 as transformers builds it; its one gate_up product is left as it is."""

from __future__ import annotations

from transformers.models.glm import modeling_glm

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_glm, "Glm", has_mlp=False, turns_pairs=True)
