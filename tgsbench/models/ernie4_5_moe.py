"""ERNIE 4.5 with experts: dense layers first, then routed and shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Ernie45Moe(MixtureDecoder):
    """See `family.ModelFamily`. The experts of its models that also see have two widths: another family's."""

    name = "ernie4_5_moe"
    model_types = ("ernie4_5_moe",)
    untrained = NO_ORACLE
    architecture = "Ernie4_5_MoeForCausalLM"

    def router_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """What corrects the router's choice, which transformers counts as a parameter."""
        return (experts_of(shape).num,)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Ernie4_5_MoeForCausalLM's config.json."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "moe_num_experts": experts.num,
            "moe_k": experts.used,
            "moe_intermediate_size": experts.intermediate_size,
            "moe_num_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
            "moe_layer_start_index": experts.dense_first,
            "moe_layer_end_index": -1,
            "moe_layer_interval": 1,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Experts in all layers behind the first dense ones; a bias on all products is refused."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.expect("use_bias", False)
        config.count("experts.num", "moe_num_experts")
        config.count("experts.used", "moe_k")
        width = config.count("experts.intermediate_size", "moe_intermediate_size")
        shared = config.layers("moe_num_shared_experts", 2, least=0)
        config.put("experts.shared_intermediate_size", shared * width, "moe_num_shared_experts")
        config.count("experts.dense_first", "moe_layer_start_index", 1, least=0)
        config.expect("moe_layer_interval", 1)
        config.expect("moe_gate", "topk")
        config.expect("use_rmsnorm", True)
        for costless in ("moe_norm_min", "moe_use_aux_free"):
            config.value(costless)
        config.ignore("moe_capacity", "no token is dropped")
        self._check_last(config)

    def _check_last(self, config: ConfigReader) -> None:
        last = config.value("moe_layer_end_index", -1)
        if last != -1 and not (isinstance(last, int) and last >= config.fields["num_layers"] - 1):
            raise config.refused("moe_layer_end_index", "dense layers at the end are not counted here")


FAMILY = Ernie45Moe()
