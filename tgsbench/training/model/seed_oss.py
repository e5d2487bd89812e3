"""Seed-OSS as transformers builds it."""

from __future__ import annotations

from transformers.models.seed_oss import modeling_seed_oss

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_seed_oss, "SeedOss")
