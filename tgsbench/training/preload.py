"""Imports what ranks on a CPU will, so that they can be copies of the process that has it."""

from __future__ import annotations

import importlib

from tgsbench.schema.preset import Preset
from tgsbench.training.imports import many_imports


def preload(preset: Preset) -> None:
    """Import torch, the engine, the model family and the rank's own code; nothing is computed.

    Raises what an import raises.
    """
    with many_imports():
        from tgsbench.training.engines.build import preload_engine
        from tgsbench.training.model.builder import find_builder

        preload_engine(preset.engine.name)
        find_builder(preset.model.family)
        importlib.import_module("tgsbench.training.rank")  # after the engine, which may choose an accelerator
