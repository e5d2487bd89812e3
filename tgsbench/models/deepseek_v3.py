"""DeepSeek V3, R1 and Kimi K2: latent attention, dense layers first, then routed and shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.experts import MixtureDecoder, experts_of, grouped_config, read_groups
from tgsbench.models.family import LayerGroup, Weight
from tgsbench.schema.model import LatentAttention

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape


class DeepseekV3(MixtureDecoder):
    """See `family.ModelFamily`. In training every head's key and value are made from the latent."""

    name = "deepseek_v3"
    torch_module = "tgsbench.training.model.deepseek_v3"
    model_types: tuple[str, ...] = ("deepseek_v3", "glm4_moe_lite")
    architecture = "DeepseekV3ForCausalLM"
    tables = ("experts", "latent")
    runs_last_again = False
    """The shared expert's last product ends the layer."""

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """Down to the latents and up again: q_a, q_b, kv_a, kv_b, o (arXiv 2405.04434, section 2.1)."""
        h, heads, mla = shape.hidden_size, shape.num_query_heads, latent_of(shape)
        queries = heads * (mla.nope_dim + mla.rope_dim)
        direct = (Weight(queries, h),)
        low = (Weight(mla.query_rank, h), Weight(queries, mla.query_rank))
        return (
            *(low if mla.query_rank else direct),
            Weight(mla.kv_rank + mla.rope_dim, h),
            Weight(heads * (mla.nope_dim + mla.value_dim), mla.kv_rank),
            Weight(h, heads * mla.value_dim),
        )

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of the projections into the latents and of the output, where the shape has them."""
        mla = latent_of(shape)
        if not shape.attention_bias:
            return ()
        return *_lengths(mla.query_rank), mla.kv_rank + mla.rope_dim, shape.hidden_size

    def vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Two norms of the layer, and one of each latent."""
        mla = latent_of(shape)
        return *super().vectors(shape), *_lengths(mla.query_rank), mla.kv_rank

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """Queries and keys are wider than values; what a token leaves behind is its latent."""
        mla = latent_of(shape)
        return replace(
            super().layer(shape, kind),
            kv_heads=shape.num_query_heads,
            key_dim=mla.nope_dim + mla.rope_dim,
            value_dim=mla.value_dim,
            cached=mla.kv_rank + mla.rope_dim,
        )

    def local_kv_heads(self, shape: ModelShape, sp: int) -> int:
        """As many as query heads: every head has its own key and value."""
        return shape.num_query_heads // sp

    def problems(self, shape: ModelShape) -> list[str]:
        """Head sizes that contradict each other."""
        found = super().problems(shape)
        if (mla := shape.latent) is None:
            return found
        for field in ("kv_rank", "nope_dim", "rope_dim", "value_dim"):
            if getattr(mla, field) < 1:
                found.append(f"model.latent.{field}={getattr(mla, field)}: must be at least 1")
        if mla.nope_dim + mla.rope_dim != shape.head_dim:
            found.append(f"model.head_dim={shape.head_dim}: must be latent.nope_dim + latent.rope_dim")
        if shape.num_kv_heads != shape.num_query_heads:
            found.append(f"model.num_kv_heads={shape.num_kv_heads}: must be num_query_heads")
        return found

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """Half of a head has positions, values are narrower than keys, ranks are half of the hidden size."""
        mla, heads = latent_of(shape), small.num_query_heads
        rope = max(2, small.head_dim // 2)
        latent = LatentAttention(
            query_rank=small.hidden_size // 2 if mla.query_rank else 0,
            kv_rank=max(8, small.hidden_size // 4),
            nope_dim=small.head_dim,
            rope_dim=rope,
            value_dim=small.head_dim,
        )
        ratio = shape.intermediate_size / shape.hidden_size
        small = replace(
            small,
            latent=latent,
            head_dim=small.head_dim + rope,
            num_kv_heads=heads,
            intermediate_size=max(16, round(small.hidden_size * ratio / 16) * 16),
        )
        return super().shrink(shape, replace(small, mtp_layers=0))

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """DeepseekV3ForCausalLM's config.json; transformers builds no MTP module."""
        mla = latent_of(shape)
        settings = super().config(shape, seq_len)
        del settings["head_dim"]
        return settings | {
            "attention_bias": shape.attention_bias,
            **grouped_config(experts_of(shape)),
            "q_lora_rank": mla.query_rank or None,
            "kv_lora_rank": mla.kv_rank,
            "qk_nope_head_dim": mla.nope_dim,
            "qk_rope_head_dim": mla.rope_dim,
            "v_head_dim": mla.value_dim,
            "num_nextn_predict_layers": 0,
        }

    def read_config(self, config: ConfigReader) -> None:
        """num_nextn_predict_layers is an option of the shape, off: transformers trains no MTP module."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        read_latent(config)
        read_groups(config, "n_routed_experts")


def _lengths(rank: int) -> tuple[int, ...]:
    """Of what a latent has; nothing where queries have none."""
    return (rank,) if rank else ()


def latent_of(shape: ModelShape) -> LatentAttention:
    """The latent attention, which `problems` has made sure of."""
    assert shape.latent is not None, shape.name
    return shape.latent


def read_latent(config: ConfigReader) -> None:
    """Ranks and widths of q, k and v, by DeepSeek's names."""
    if config.value("q_lora_rank") is None:
        config.put("latent.query_rank", 0, "q_lora_rank")
    else:
        config.count("latent.query_rank", "q_lora_rank")
    config.count("latent.kv_rank", "kv_lora_rank")
    nope = config.count("latent.nope_dim", "qk_nope_head_dim")
    rope = config.count("latent.rope_dim", "qk_rope_head_dim")
    config.count("latent.value_dim", "v_head_dim")
    config.put("head_dim", nope + rope, "qk_nope_head_dim + qk_rope_head_dim")
    config.put("num_kv_heads", config.fields["num_query_heads"], "num_attention_heads")


FAMILY = DeepseekV3()
