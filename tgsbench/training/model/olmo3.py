"""OLMo 3 as transformers builds it."""

from __future__ import annotations

from transformers.models.olmo3 import modeling_olmo3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_olmo3, "Olmo3")
