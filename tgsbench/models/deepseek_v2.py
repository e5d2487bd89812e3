"""DeepSeek V2, V2-Lite and Coder-V2: V3's layers, their experts chosen by softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.deepseek_v3 import DeepseekV3, read_latent
from tgsbench.models.experts import MixtureDecoder, experts_of, read_shared
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape

_GROUPED = "group_limited_greedy"


class DeepseekV2(DeepseekV3):
    """See `family.ModelFamily`."""

    name = "deepseek_v2"
    torch_module = ""
    model_types = ("deepseek_v2",)
    untrained = NO_ORACLE
    architecture = "DeepseekV2ForCausalLM"

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """DeepseekV2ForCausalLM's config.json; there is no MTP module."""
        settings = super().config(shape, seq_len)
        del settings["num_nextn_predict_layers"]
        return settings | {"topk_method": _GROUPED if experts_of(shape).groups > 1 else "greedy"}

    def read_config(self, config: ConfigReader) -> None:
        """Groups count only where the method of choice looks at them."""
        MixtureDecoder.read_config(self, config)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("mlp_bias", False)
        read_latent(config)
        read_shared(config, "n_routed_experts")
        config.flag("experts.normalised", "norm_topk_prob", False)
        config.expect("scoring_func", "softmax")
        config.expect("topk_method", "greedy", _GROUPED)
        groups, used = config.layers("n_group", 1), config.layers("topk_group", 1)
        if config.value("topk_method") == _GROUPED:
            config.put("experts.groups", groups, "n_group")
            config.put("experts.used_groups", used, "topk_group")


FAMILY = DeepseekV2()
