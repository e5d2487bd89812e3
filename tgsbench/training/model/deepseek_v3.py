"""DeepSeek V3 as transformers builds it."""

from __future__ import annotations

from transformers.models.deepseek_v3 import modeling_deepseek_v3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_deepseek_v3, "DeepseekV3")
