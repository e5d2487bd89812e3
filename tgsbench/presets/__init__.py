"""Presets and the data files beside them: find, merge, validate."""

from tgsbench.presets.catalog import (
    find_gpu,
    list_presets,
    load_gpus,
    load_model,
    load_references,
    preset_path,
)
from tgsbench.presets.config_file import find_model
from tgsbench.presets.resolve import Resolved, from_document, named, resolve, to_toml

__all__ = [
    "Resolved",
    "find_gpu",
    "find_model",
    "from_document",
    "list_presets",
    "load_gpus",
    "load_model",
    "load_references",
    "named",
    "preset_path",
    "resolve",
    "to_toml",
]
