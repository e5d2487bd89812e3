"""The only writer to stderr: errors with their remedy, warnings, narration."""

from __future__ import annotations

import contextlib
import os
import sys

from tgsbench.safe_files import printable


def error(msg: str, hint: str = "") -> None:
    """Print what was wrong and the remedy."""
    note(f"error: {msg}")
    if hint:
        note(f"  try: {hint}")


def bug(exception: Exception) -> None:
    """Say that tgsbench itself failed; a file keeps the traceback and the command for whoever mends it."""
    import shlex  # here, for importing these three takes 20 ms, and `tgsbench presets` 70
    import tempfile
    import traceback

    text = f"{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(exception))}"
    brief = f"a bug in tgsbench: {type(exception).__name__}: {exception}"
    try:
        fd, path = tempfile.mkstemp(prefix="tgsbench-bug-", suffix=".txt")
        with os.fdopen(fd, "w", errors="replace") as file:
            file.write(text)
    except OSError:  # no room even for that: better on the screen than lost
        error(f"{brief}\n{text}")
        return
    error(brief, f"report it with {path}, which holds the command and the traceback")


def warn(msg: str, hint: str = "") -> None:
    """Print a warning and its remedy."""
    note(f"warning: {msg}" + (f" ({hint})" if hint else ""))


def note(line: str) -> None:
    """Print one line of narration; a stderr that is closed or full is no reason to fail."""
    with contextlib.suppress(OSError):
        print(printable(line).encode("utf-8", "replace").decode(), file=sys.stderr, flush=True)


def status(line: str) -> None:
    """Show how far something is, in one line of a terminal that the next replaces; empty: take it away."""
    if sys.stderr.isatty():
        with contextlib.suppress(OSError):
            print(f"\r\x1b[2K{printable(line)}", end="", file=sys.stderr, flush=True)
