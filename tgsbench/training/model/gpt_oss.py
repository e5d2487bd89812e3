"""gpt-oss as transformers builds it."""

from __future__ import annotations

from transformers import GptOssConfig, GptOssModel
from transformers.models.gpt_oss import modeling_gpt_oss

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=GptOssConfig,
    decoder_class=GptOssModel,
    rotary_class=modeling_gpt_oss.GptOssRotaryEmbedding,
    norm_class=modeling_gpt_oss.GptOssRMSNorm,
    mlp_class=None,
    module=modeling_gpt_oss,
)
