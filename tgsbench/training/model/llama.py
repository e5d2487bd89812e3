"""Llama as transformers builds it."""

from __future__ import annotations

from transformers.models.llama import modeling_llama

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_llama, "Llama")
