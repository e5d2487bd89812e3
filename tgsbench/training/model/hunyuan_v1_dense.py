"""Hunyuan, dense, as transformers builds it."""

from __future__ import annotations

from transformers.models.hunyuan_v1_dense import modeling_hunyuan_v1_dense

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_hunyuan_v1_dense, "HunYuanDenseV1")
