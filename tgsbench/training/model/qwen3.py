"""Qwen3 as transformers builds it."""

from __future__ import annotations

from transformers.models.qwen3 import modeling_qwen3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_qwen3, "Qwen3")
