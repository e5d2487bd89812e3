"""The UI's own settings: tui.toml in the user's tgsbench folder (theme, keys, welcome seen)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tgsbench.errors import TgsError
from tgsbench.presets.catalog import config_dir, read_toml
from tgsbench.tui.actions import check_keymap

DEFAULT_THEME = "textual-dark"


@dataclass
class UiConfig:
    """What the user chose."""

    theme: str = DEFAULT_THEME
    welcomed: bool = False
    """Whether the three ways to begin were shown once."""
    keys: dict[str, str] = field(default_factory=dict)
    """Action -> keys, over the defaults."""
    problems: list[str] = field(default_factory=list)
    """What was wrong with the file; shown once, the defaults hold."""


def config_path() -> Path:
    """Where the settings lie."""
    return config_dir() / "tui.toml"


def load_config() -> UiConfig:
    """Read the settings; a broken file is reported in `problems`, never raised."""
    path = config_path()
    if not path.exists():
        return UiConfig()
    try:
        document = read_toml(path)
    except TgsError as error:
        return UiConfig(problems=[error.msg])
    keys = document.get("keys", {})
    keymap = {str(k): str(v) for k, v in keys.items()} if isinstance(keys, dict) else {}
    problems = [f"{path}: {problem}" for problem in check_keymap(keymap)]
    return UiConfig(
        theme=str(document.get("theme", DEFAULT_THEME)),
        welcomed=bool(document.get("welcomed", False)),
        keys={} if problems else keymap,
        problems=problems,
    )


def save_config(config: UiConfig) -> None:
    """Write the settings; where that is not possible they last for this session only."""
    if config.problems:
        return  # a file that could not be read is the user's to mend, not ours to overwrite
    lines = [f"theme = {json.dumps(config.theme)}", f"welcomed = {str(config.welcomed).lower()}"]
    if config.keys:
        lines += ["", "[keys]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in config.keys.items())]
    path = config_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", "utf-8")
    except OSError:
        return
