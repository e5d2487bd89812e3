"""GLM-4.5 as transformers builds it."""

from __future__ import annotations

from transformers.models.glm4_moe import modeling_glm4_moe

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_glm4_moe, "Glm4Moe")
