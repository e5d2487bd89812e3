"""GLM-4.5 as transformers builds it."""

from __future__ import annotations

from transformers import Glm4MoeConfig, Glm4MoeModel
from transformers.models.glm4_moe import modeling_glm4_moe

from tgsbench.training.model.builder import TransformersBuilder

BUILDER = TransformersBuilder(
    config_class=Glm4MoeConfig,
    decoder_class=Glm4MoeModel,
    rotary_class=modeling_glm4_moe.Glm4MoeRotaryEmbedding,
    norm_class=modeling_glm4_moe.Glm4MoeRMSNorm,
    mlp_class=modeling_glm4_moe.Glm4MoeMLP,
    module=modeling_glm4_moe,
)
