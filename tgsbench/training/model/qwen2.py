"""Qwen2 as transformers builds it."""

from __future__ import annotations

from transformers.models.qwen2 import modeling_qwen2

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_qwen2, "Qwen2")
