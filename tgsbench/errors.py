"""What a user can be told: one error type, one table of exit codes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; the README prints this table."""

    OK = 0
    """Everything asked for was done."""
    INTERNAL = 1
    """A bug in tgsbench itself: the message names a file with the traceback."""
    USAGE = 2
    """Wrong words on the command line, or no terminal for the TUI."""
    DOES_NOT_FIT = 3
    """This machine cannot hold the preset; nothing was started."""
    BAD_PRESET = 4
    """Unknown preset, unknown key, wrong type, or a mesh that does not divide."""
    BAD_DATA = 5
    """The corpus cannot fill the sequences (too few documents, packs too short, unreadable file)."""
    MISSING_DEPENDENCY = 6
    """A package that this command needs is not installed."""
    STORE = 7
    """The runs folder cannot be read or written, or a run is unknown or damaged."""
    CRASHED = 8
    """A rank raised or was killed."""
    OOM = 9
    """A rank ran out of device or host memory."""
    STALLED = 10
    """No rank made progress for the configured time."""
    INVALID = 11
    """The run ended but its integrity checks failed; its number must not be used."""
    PREEMPTED = 12
    """The scheduler asked the run to end; what was measured is kept."""
    UNSUPPORTED = 13
    """The engine cannot do what the preset asks."""
    NOT_COMPARABLE = 14
    """The rows differ in what they measure; no ratio is printed."""
    WORSE = 15
    """A comparison found the regression that --fail-on names, or a gate a loss."""
    VERIFY_FAILED = 16
    """At least one check of `tgsbench verify` or `doctor` failed."""
    BAD_INPUT = 17
    """A trace, log, archive or table could not be read."""
    UNKNOWN_HARDWARE = 18
    """No peak is known for this GPU or link, and none is guessed."""
    DISTURBED = 19
    """A comparison or gate has rows of a disturbed machine, or too wide a spread: nothing is decided."""
    CANCELLED = 130
    """Interrupted from the keyboard."""


class TgsError(Exception):
    """An error for the user: what was wrong, the remedy, and the exit code.

    `kind` names the event or status it belongs to when it crosses a process border.
    """

    def __init__(self, msg: str, *, hint: str = "", exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(msg)
        self.msg = msg
        self.hint = hint
        self.exit_code = exit_code


def _begins_like(word: str, names: Iterable[str]) -> list[str]:
    """Names whose beginning is close to a short word: H10O to H100-SXM5-80GB."""
    from difflib import get_close_matches

    begins: dict[str, list[str]] = {}
    for name in names:
        begins.setdefault(name[: len(word)].lower(), []).append(name)
    return [name for begin in get_close_matches(word.lower(), begins, cutoff=0.5) for name in begins[begin]]


def nearest(word: str, known: Iterable[str], n: int = 3) -> str:
    """Say which known names are closest to a mistyped one, or list a few of them."""
    from difflib import get_close_matches  # 4 ms that every command would pay and few need

    names = sorted(known)
    if not names:
        return "there are none"
    close = get_close_matches(word, names, n=n, cutoff=0.5)
    close = close or [name for name in names if word and word.lower() in name.lower()][:n]
    close = close or (_begins_like(word, names)[:n] if len(word) > 2 else [])
    if close:
        return "nearest: " + ", ".join(map(in_one_line, close))
    return "known: " + ", ".join(map(in_one_line, names[:12])) + (", …" if len(names) > 12 else "")


def in_one_line(text: str) -> str:
    """A name or value as it is, or as Python spells it where a line break or an escape would forge a line."""
    return text if text.isprintable() else repr(text)
