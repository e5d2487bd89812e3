"""ERNIE 4.5, dense, as transformers builds it."""

from __future__ import annotations

from transformers.models.ernie4_5 import modeling_ernie4_5

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_ernie4_5, "Ernie4_5", turns_pairs=True)
