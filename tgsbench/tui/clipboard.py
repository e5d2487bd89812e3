"""Where copied text goes besides OSC 52, which tmux by default and some terminals drop without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_PATIENCE_S = 2.0
_PROGRAMS = (
    ("TMUX", ("tmux", "load-buffer", "-w", "-"), "tmux's buffer"),
    ("WAYLAND_DISPLAY", ("wl-copy",), "the clipboard by wl-copy"),
    ("DISPLAY", ("xclip", "-selection", "clipboard", "-in"), "the clipboard by xclip"),
)
"""Variable that tells that it can be reached, program that takes the text on stdin, what holds it then."""


def also_put(text: str, folder: Path) -> str:
    """Hand the text to the first program that takes it, else write it into `folder`; says where it lies now.

    An empty string: nowhere, neither program nor folder took it.
    """
    for variable, argv, where in _PROGRAMS:
        if os.environ.get(variable) and shutil.which(argv[0]) and _takes(argv, text):
            return where
    path = folder / "copied.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError:
        return ""
    return str(path)


def _takes(argv: tuple[str, ...], text: str) -> bool:
    try:
        done = subprocess.run(
            argv,
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
