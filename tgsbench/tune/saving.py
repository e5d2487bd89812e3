"""Keeps a tuned setting as a preset of the user's own, which says what its figure rests on."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from tgsbench.presets import catalog, resolve
from tgsbench.presets.save import check_free, save_user_preset
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.text import figure_text
from tgsbench.tune.verdict import SettingRow


def save_tuned(name: str, asked: Asked, row: SettingRow) -> Path:
    """Write NAME.toml: what was tuned with a row's setting over it; one that says the same already is kept.

    Raises TgsError as `save_user_preset` does.
    """
    change = [*asked.assignments, *row.change]
    if path := _kept(name, asked.base, change):
        return path
    return save_user_preset(name, asked.base, [*change, f"description=Tuned: {figure_text(row)}"])


def check_save(name: str, journal: Journal) -> None:
    """Raise TgsError when no preset of this name could be saved; a tune that goes on may have saved one."""
    if catalog.is_name(name) and journal.begun() is not None:
        return
    check_free(name)


def _kept(name: str, base: str, change: list[str]) -> Path | None:
    """The file of a preset of the user's own that is this very setting; None without one."""
    path = catalog.files("presets").get(name)
    if path is None or path.is_relative_to(catalog.shipped("presets")):
        return None
    there, wanted = resolve(name).preset, resolve(base, change).preset
    same = replace(there, name=wanted.name, description=wanted.description) == wanted
    return path if same else None
