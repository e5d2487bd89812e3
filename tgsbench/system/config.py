"""Where the user's own settings, presets and named interpreters are kept."""

from __future__ import annotations

import os
from pathlib import Path


def config_dir() -> Path:
    """The user's tgsbench folder under XDG_CONFIG_HOME."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "tgsbench"
