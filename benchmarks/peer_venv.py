"""Environments of their own, under .peers, for packages that a benchmark is run against."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / ".peers"


def is_made(name: str) -> bool:
    """Was the environment made whole?"""
    return (PEERS / name / ".installed").exists()


def python_of(name: str, *installs: Sequence[str]) -> Path:
    """Python of the environment `name`; made at first use by one `pip install` after the other."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not is_made(name):
        venv.create(folder, with_pip=True, clear=True)
        for words in installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
        (folder / ".installed").touch()
    return python
