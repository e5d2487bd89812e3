"""EXAONE 4 as transformers builds it."""

from __future__ import annotations

from transformers.models.exaone4 import modeling_exaone4

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_exaone4, "Exaone4")
