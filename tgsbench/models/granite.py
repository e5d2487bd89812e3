"""Granite 3: Llama whose embedding, attention, residuals and logits are scaled, which costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class Granite(Decoder):
    """See `family.ModelFamily`."""

    name = "granite"
    model_types = ("granite",)
    untrained = NO_ORACLE
    architecture = "GraniteForCausalLM"

    def read_config(self, config: ConfigReader) -> None:
        """A bias of the MLP is refused."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("mlp_bias", False)
        read_factors(config)


def read_factors(config: ConfigReader) -> None:
    """Factors on values change no product."""
    for factor in ("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"):
        config.value(factor)


FAMILY = Granite()
