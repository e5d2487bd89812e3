"""OLMo 2 as transformers builds it."""

from __future__ import annotations

from transformers.models.olmo2 import modeling_olmo2

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_olmo2, "Olmo2")
