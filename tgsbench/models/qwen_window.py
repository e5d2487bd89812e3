"""Qwen's options for windowed layers: off unless use_sliding_window says so, then from a layer on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.config_reader import period
from tgsbench.models.decoder import LAYER_TYPES

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape


def read_window(config: ConfigReader) -> None:
    """Window and layer_pattern of a Qwen2 or Qwen3."""
    on = config.switch("use_sliding_window")
    first = config.layers("max_window_layers", 28, least=0)
    named = config.value("layer_types")
    config.window(on=on)
    if on and named is None:
        num = config.fields["num_layers"]
        kinds: list[LayerKind] = ["window" if index >= first else "full" for index in range(num)]
        config.put("layer_pattern", period(kinds), "max_window_layers")


def window_options(shape: ModelShape, pattern: tuple[LayerKind, ...]) -> dict[str, Any]:
    """The same, as a config.json says it."""
    windowed = "window" in pattern
    return {
        "use_sliding_window": windowed,
        "sliding_window": shape.window if windowed else None,
        "layer_types": [LAYER_TYPES[kind] for kind in pattern],
    }
