"""Qwen3 with experts as transformers builds it."""

from __future__ import annotations

from transformers.models.qwen3_moe import modeling_qwen3_moe

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_qwen3_moe, "Qwen3Moe")
