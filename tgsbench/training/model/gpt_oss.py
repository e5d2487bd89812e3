"""gpt-oss as transformers builds it."""

from __future__ import annotations

from transformers.models.gpt_oss import modeling_gpt_oss

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder.of(modeling_gpt_oss, "GptOss", has_mlp=False)
