"""What a preset measures, apart from its name: runs are best, repeated and compared by this alone."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from tgsbench.errors import TgsError
from tgsbench.presets import catalog
from tgsbench.presets.resolve import resolve
from tgsbench.schema.preset import Preset

_WORK = ("model", "workload", "parallel", "engine", "training")
_NO_WORK = ("measure.", "hardware.gpu", "hardware.link", "profile")
"""How long is measured, and what the planner assumes of the machine: the same work is done."""
_LABELS = ("name", "description", "notes", "schema_version", "rehearsal_of", "model.source")


def work_digest(preset: Preset) -> str:
    """Ten hex digits that two presets share if and only if their runs train the same on as many ranks.

    Its name, its steps and the GPU that it was written for do not count, nor what a model's shape is called.
    """
    tables = {table: getattr(preset, table) for table in _WORK}
    tables["ranks"] = [preset.hardware.device, preset.hardware.num_gpus]
    model = msgspec.structs.replace(preset.model, name="", source="")
    document = msgspec.json.encode(tables | {"model": model}, order="sorted")
    return hashlib.sha256(document).hexdigest()[:10]


def changed_values(preset: Preset) -> list[str]:
    """`key=value` for all that differs from the catalog's preset of the same name, as after --set.

    Empty where nothing does, and where the catalog has no sound preset of that name.
    """
    if preset.rehearsal_of or preset.name not in catalog.files("presets"):
        return []
    try:
        own = _flat(resolve(preset.name).preset)
    except TgsError:
        return []
    found = _flat(preset)
    return [f"{key}={_text(found[key])}" for key in found if key not in own or own[key] != found[key]]


def is_other_work(changed: list[str]) -> bool:
    """Does one of these changes make a run measure something else than its preset?"""
    return any(not change.startswith(_NO_WORK) for change in changed)


def _flat(preset: Preset) -> dict[str, Any]:
    """Dotted keys and their values; labels are left out."""
    document: dict[str, Any] = msgspec.to_builtins(preset)
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in found.items() if key not in _LABELS}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
