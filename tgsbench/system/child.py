"""Python processes that we start: this very tgsbench, and nothing from the folder that they start in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def package_root() -> str:
    """Folder that this very tgsbench was imported from, so that children run the same code."""
    return str(Path(__file__).absolute().parents[2])


def safe_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables (this process's, or `base`) under which no Python imports from the current folder.

    An empty entry of PYTHONPATH is that folder too. Python 3.10 knows no safe path: start one that may be
    so old in a folder of ours.
    """
    env = dict(os.environ if base is None else base)
    env["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, env["PYTHONPATH"].split(os.pathsep)))
        if not env["PYTHONPATH"]:
            del env["PYTHONPATH"]
    return env


def child_environment() -> dict[str, str]:
    """The variables of our own children: safe, with tgsbench first on PYTHONPATH."""
    env = safe_environment()
    inherited = [env["PYTHONPATH"]] if "PYTHONPATH" in env else []
    return {**env, "PYTHONPATH": os.pathsep.join([package_root(), *inherited])}


def module_argv(module: str, *words: str, python: str = "") -> list[str]:
    """`python -m` a module with arguments; -P keeps a stranger's msgspec.py in the current folder out."""
    return [python or sys.executable, "-P", "-m", module, *words]
