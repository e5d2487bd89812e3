"""MiniMax M2: experts in every layer, one norm over all heads of a query and of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.experts import MixtureDecoder, read_experts
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class MinimaxM2(MixtureDecoder):
    """See `family.ModelFamily`. MiniMax M1's linear layers are another family's."""

    name = "minimax_m2"
    model_types = ("minimax_m2",)
    untrained = NO_ORACLE
    architecture = "MiniMaxM2ForCausalLM"
    qk_norm = True
    norms_all_heads = True

    def read_config(self, config: ConfigReader) -> None:
        """Options that are left over from M1 must say softmax attention in every layer, and no shared MLP."""
        super().read_config(config)
        read_experts(config, "num_local_experts", "intermediate_size")
        config.expect("attn_type_list", [1] * config.fields["num_layers"])
        config.expect("qk_norm_type", "per_layer")
        config.expect("use_qk_norm", True)
        config.expect("scoring_func", "sigmoid")
        config.expect("shared_intermediate_size", 0)
        config.expect("sliding_window")
        for costless in _COSTLESS:
            config.value(costless)
        config.ignore("use_mtp", "MTP is not trained; --set model.mtp_layers=1 counts a module")


_COSTLESS = (
    "layernorm_full_attention_beta",
    "layernorm_linear_attention_beta",
    "layernorm_mlp_beta",
    "mlp_intermediate_size",
    "mtp_transformer_layers",
    "num_mtp_modules",
    "rotary_dim",
    "shared_moe_mode",
    "use_routing_bias",
)
FAMILY = MinimaxM2()
