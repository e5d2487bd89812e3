"""Keeps a tuned setting as a preset of the user's own, which says what its figure rests on."""

from __future__ import annotations

from pathlib import Path

from tgsbench.presets.save import save_user_preset
from tgsbench.tune.journal import Asked
from tgsbench.tune.text import figure_text
from tgsbench.tune.verdict import SettingRow


def save_tuned(name: str, asked: Asked, row: SettingRow) -> Path:
    """Write NAME.toml: what was tuned with a row's setting over it. Raises TgsError as `save_user_preset`."""
    about = f"description=Tuned: {figure_text(row)}"
    return save_user_preset(name, asked.base, [*asked.assignments, *row.change, about])
