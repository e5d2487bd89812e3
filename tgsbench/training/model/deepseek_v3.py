"""DeepSeek V3 as transformers builds it."""

from __future__ import annotations

from transformers import DeepseekV3Config, DeepseekV3Model
from transformers.models.deepseek_v3 import modeling_deepseek_v3

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=DeepseekV3Config,
    decoder_class=DeepseekV3Model,
    rotary_class=modeling_deepseek_v3.DeepseekV3RotaryEmbedding,
    norm_class=modeling_deepseek_v3.DeepseekV3RMSNorm,
    mlp_class=modeling_deepseek_v3.DeepseekV3MLP,
    module=modeling_deepseek_v3,
)
