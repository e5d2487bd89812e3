"""Gemma 2: a windowed layer to a full one, four norms a layer; its soft caps are off in training kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import read_sizes
from tgsbench.models.gemma3_text import Gemma3, read_gemma

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class Gemma2(Gemma3):
    """See `family.ModelFamily`."""

    name = "gemma2"
    torch_module = "tgsbench.training.model.gemma2"
    model_types = ("gemma2",)
    architecture = "Gemma2ForCausalLM"
    default_pattern = ("window", "full")
    qk_norm = False

    def read_config(self, config: ConfigReader) -> None:
        """Every second layer is full, unless the file names them."""
        read_sizes(config)
        read_gemma(config)


FAMILY = Gemma2()
