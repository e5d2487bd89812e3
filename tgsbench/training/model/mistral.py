"""Mistral as transformers builds it."""

from __future__ import annotations

from transformers.models.mistral import modeling_mistral

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_mistral, "Mistral")
