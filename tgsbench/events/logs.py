"""Reads a rank's log as it grows: bounded, harmless, one line at a time."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tgsbench.safe_files import open_regular, printable

MAX_BYTES = 2 << 20
"""Read at most this much of a log's end; a log of gigabytes opens as fast as a short one."""
MAX_LINES = 20_000
MAX_LINE_CHARS = 4_000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERROR = re.compile(
    r"Traceback \(most recent|\b\w*(?:Error|Exception)\b|\berror\b|out of memory"
    r"|\bKilled\b|SIG(?:KILL|SEGV|ABRT)|\bFAILED\b",
    re.IGNORECASE,
)


def harmless(line: str) -> str:
    """The line without terminal escapes and control characters; tabs become spaces, long lines are cut."""
    line = _CONTROLS.sub("", _ESCAPES.sub("", line.rpartition("\r")[2] or line)).expandtabs(8)
    line = printable(line)  # what is left: marks that turn or break a line
    return line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + " …"


def is_error(line: str) -> bool:
    """Does the line look like the start of trouble?"""
    return _ERROR.search(line) is not None


class LogTail:
    """The end of one log file, and what is appended to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.cut = False
        """Whether the beginning was left out."""
        self._position = -1
        self._torn = b""

    def poll(self) -> int:
        """Read what is new and return how many lines came in; a missing file has none."""
        try:
            with os.fdopen(open_regular(self.path), "rb") as file:
                size = file.seek(0, 2)
                self._place(size)
                file.seek(self._position)
                data = file.read(MAX_BYTES)
        except OSError:
            return 0
        self._position += len(data)
        *complete, self._torn = (self._torn + data).split(b"\n")
        if len(self._torn) > MAX_BYTES:  # no line is that long: binary, or a writer gone wild
            self._torn = b""
        self.lines += [harmless(line.decode("utf-8", "replace")) for line in complete]
        if len(self.lines) > MAX_LINES:
            del self.lines[: len(self.lines) - MAX_LINES]
            self.cut = True
        return len(complete)

    def first_error(self) -> int | None:
        """Index of the first line that looks like an error."""
        return next((i for i, line in enumerate(self.lines) if is_error(line)), None)

    def _place(self, size: int) -> None:
        """Start at the file's last MAX_BYTES; start again when it was truncated."""
        if self._position < 0:
            self._position = max(0, size - MAX_BYTES)
            self.cut = self._position > 0
        elif size < self._position:
            self._position, self._torn, self.lines = 0, b"", []
