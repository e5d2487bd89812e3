"""Qwen3.5, dense: Qwen3-Next's layers with a plain MLP; its mixtures are read as Qwen3-Next.

Counted and planned, not trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.qwen3_next import GatedDeltaDecoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class Qwen35(GatedDeltaDecoder):
    """See `family.ModelFamily`."""

    name = "qwen3_5"
    model_types = ("qwen3_5_text", "qwen3_5")
    architecture = "Qwen3_5ForCausalLM"

    def read_config(self, config: ConfigReader) -> None:
        """An MLP in every layer."""
        super().read_config(config)
        config.expect("mlp_only_layers", [])


FAMILY = Qwen35()
