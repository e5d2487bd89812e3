"""The UI's own settings: tui.toml in the user's tgsbench folder (theme, keys, welcome seen)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from tgsbench.errors import TgsError, nearest
from tgsbench.safe_files import read_toml
from tgsbench.system.config import config_dir
from tgsbench.tui.actions import check_keymap

DEFAULT_THEME = "textual-dark"
_KNOWN = ("theme", "welcomed", "keys")


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
    problems = [f"{path}: {problem}" for problem in _problems(document)]
    keys = {} if problems else {str(k): str(v) for k, v in document.get("keys", {}).items()}
    return UiConfig(
        theme=str(document.get("theme", DEFAULT_THEME)),
        welcomed=bool(document.get("welcomed", False)),
        keys=keys,
        problems=problems,
    )


def _problems(document: dict[str, Any]) -> list[str]:
    keys = document.get("keys", {})
    if not isinstance(keys, dict):
        return ['[keys] must be a table, such as  "live.stop" = "ctrl+k"  below a line [keys]']
    unknown = [f"{key}: no such setting; {nearest(key, _KNOWN)}" for key in document if key not in _KNOWN]
    return unknown + check_keymap({str(name): str(key) for name, key in keys.items()})


def save_config(config: UiConfig) -> None:
    """Write theme and welcome; every other line stays as the user wrote it.

    Where that is not possible they last for this session only.
    """
    if config.problems:
        return  # a file that could not be read is the user's to mend, not ours to overwrite
    path = config_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text("utf-8") if path.exists() else ""
        for key, value in (("welcomed", config.welcomed), ("theme", config.theme)):
            text = _with(text, key, value)
        path.write_text(text, "utf-8")
    except OSError:
        return


def _with(text: str, key: str, value: object) -> str:
    """The settings with one line above all tables replaced, or put first."""
    head, table, rest = text.partition("\n[") if not text.startswith("[") else ("", "", text)
    line = rf"^({key}\s*=\s*)(\"[^\"\n]*\"|'[^'\n]*'|[^\s#]+)"
    written = tomli_w.dumps({key: value})
    shown = written.partition(" = ")[2].rstrip("\n")
    changed, num = re.subn(line, lambda found: found[1] + shown, head, count=1, flags=re.M)
    return (changed if num else f"{written}{head}") + table + rest
