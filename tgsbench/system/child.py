"""Python processes of our own: this very tgsbench, and nothing out of the folder that it is started in."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def package_root() -> str:
    """Folder that this very tgsbench was imported from, so that children run the same code."""
    return str(Path(__file__).absolute().parents[2])


def child_environment() -> dict[str, str]:
    """This process's environment with tgsbench first on PYTHONPATH; an empty entry is the current folder."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package_root(), *inherited]))}


def module_argv(*words: str) -> list[str]:
    """`python -m` a module with arguments; -P keeps a stranger's msgspec.py in the current folder out."""
    return [sys.executable, "-P", "-m", *words]
