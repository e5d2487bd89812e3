"""The only writer to stderr: errors with their remedy, warnings, narration."""

from __future__ import annotations

import contextlib
import sys

from tgsbench.confined import printable


def error(msg: str, hint: str = "") -> None:
    """Print what was wrong and the remedy."""
    note(f"error: {msg}")
    if hint:
        note(f"  try: {hint}")


def warn(msg: str, hint: str = "") -> None:
    """Print a warning and its remedy."""
    note(f"warning: {msg}" + (f" ({hint})" if hint else ""))


def note(line: str) -> None:
    """Print one line of narration; a stderr that is closed or full is no reason to fail."""
    with contextlib.suppress(OSError):
        print(printable(line).encode("utf-8", "replace").decode(), file=sys.stderr, flush=True)
