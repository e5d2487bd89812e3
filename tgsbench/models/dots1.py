"""dots.llm1: grouped-query attention with norms on q and k, DeepSeek V3's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, grouped_config, read_groups
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Dots1(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "dots1"
    model_types = ("dots1",)
    untrained = NO_ORACLE
    architecture = "Dots1ForCausalLM"
    qk_norm = True
    runs_last_again = False
    """The shared expert's last product ends the layer."""

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Dots1ForCausalLM's config.json."""
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "sliding_window": None,
            **grouped_config(experts_of(shape)),
        }

    def read_config(self, config: ConfigReader) -> None:
        """Windows are refused: no public model has them."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        read_groups(config, "n_routed_experts")
        config.expect("sliding_window")
        config.value("max_window_layers")
        config.window(on=False)


FAMILY = Dots1()
