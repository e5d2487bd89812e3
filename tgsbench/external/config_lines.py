"""How many lines of configuration a user writes for a system to do a preset's work."""

from __future__ import annotations

from pathlib import Path

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from tgsbench.external.adapter import Adapter
from tgsbench.schema.preset import Preset
from tgsbench.systems.entry import load_entry
from tgsbench.systems.registry import engine_of
from tgsbench.systems.spec import External

_DATA = ".jsonl"
_PLACE = Path("/work")


def count(preset: Preset) -> int:
    """Lines that say something: of the files that its adapter writes, and one for each option.

    Data is no configuration. A preset of ours counts by the values that it gives.
    """
    launch = engine_of(preset.engine).launch
    if not isinstance(launch, External):
        return _given(preset)
    adapter: Adapter = load_entry(launch.adapter)
    texts = [text for name, text in adapter.files(preset, _PLACE).items() if not name.endswith(_DATA)]
    options = [word for word in adapter.arguments(preset, _PLACE) if word.startswith("-")]
    return sum(map(_said, texts)) + len(options)


def _given(preset: Preset) -> int:
    """Values that are not the default, and one line that names the model."""
    tables = (preset.hardware, preset.workload, preset.parallel, preset.training, preset.engine)
    return 1 + sum(_others_than_default(table) for table in tables)


def _others_than_default(table: Struct) -> int:
    return sum(
        getattr(table, field.name) != field.default
        for field in fields(table)
        if field.default_factory is NODEFAULT
    )


def _said(text: str) -> int:
    """Lines with a word in them: no empty ones, no brackets alone."""
    return sum(any(map(str.isalnum, line)) for line in text.splitlines())
