"""Mixtral as transformers builds it."""

from __future__ import annotations

from transformers.models.mixtral import modeling_mixtral

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_mixtral, "Mixtral", has_mlp=False)
