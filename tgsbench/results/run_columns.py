"""The columns of the lists of runs: `tgsbench runs` prints TABLE, the terminal UI shows LIST.

To add a column, add it to COLUMNS and its name to TABLE, to LIST, or to both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from tgsbench import units
from tgsbench.results.index import Summary
from tgsbench.safe_files import one_line


class RunColumn(NamedTuple):
    """One column: what it is called, what it says of a run, how it is set."""

    title: str
    value: Callable[[Summary], Any]
    """The figure itself: what to sort by."""
    show: Callable[[Any], str] = str
    """The value as text."""
    width: int = 10
    """Characters in the terminal UI; printed tables are as wide as their widest cell."""
    right: bool = False
    figure: str = ""
    """What `?` explains, a key of live/explain.TEXTS; empty: it speaks for itself."""

    def text(self, summary: Summary) -> str:
        """What a list shows of a run."""
        return self.show(self.value(summary))


def _rate(tgs: float | None) -> str:
    return "-" if tgs is None else units.rate(tgs)


def _length(seq_len: int) -> str:
    return units.length(seq_len) if seq_len else ""


def _when(unix: float) -> str:
    """Local time of a run of this year; of another, the day with its year, in a character less."""
    if not unix:
        return ""
    when = datetime.fromtimestamp(unix)
    return when.strftime("%m-%d %H:%M" if when.year == _this_year() else "%Y-%m-%d")


def _this_year() -> int:
    return datetime.now().year


def _count(number: int) -> str:
    return str(number) if number else ""


def _preset(summary: Summary) -> str:
    """With * where it was changed to other work; the run's name stands in for one that nobody knows."""
    preset = (
        summary.preset + ("*" if summary.changed else "") + (" (rehearsal)" if summary.rehearsal_of else "")
    )
    return preset or summary.run_id


def _engine(summary: Summary) -> str:
    return f"{summary.engine} FP8" if summary.linear else summary.engine


def _why(summary: Summary) -> str:
    """One short line; a rehearsal says that it is one, `show` has the whole reason."""
    why = " ".join(summary.reason.split())
    why = why if len(why) <= _SHORT else f"{why[: _SHORT - 1].rstrip()}…"
    if summary.rehearsal_of:
        return f"rehearsal; {why}" if why else "rehearsal: compare with nothing"
    return why


_SHORT = 60
"""Characters of a reason in a printed table."""

COLUMNS: Final[dict[str, RunColumn]] = {
    "tgs": RunColumn("TGS", lambda s: s.tgs, _rate, width=9, right=True, figure="tgs"),
    "run": RunColumn("run", lambda s: one_line(s.run_id), width=40),
    "status": RunColumn("status", lambda s: s.status, width=11, figure="status"),
    "preset": RunColumn("preset", _preset, width=20),
    "engine": RunColumn("engine", _engine, width=12),
    "n": RunColumn("n", lambda s: s.n, width=5, right=True),
    "length": RunColumn("length", lambda s: s.seq_len, _length, width=6, right=True),
    "when": RunColumn("when", lambda s: s.created_unix, _when, width=11),
    "ranks": RunColumn("ranks", lambda s: s.world_size, _count, width=5, right=True),
    "tags": RunColumn("tags", lambda s: s.tags, ",".join, width=20),
    "why": RunColumn("why", _why, width=60),
    "reason": RunColumn("why", lambda s: s.reason, width=60),
}
"""In the order in which `?` explains their figures."""

TABLE: tuple[str, ...] = ("run", "when", "status", "preset", "engine", "tgs", "n", "tags", "why")
"""Columns of `tgsbench runs`, from the left."""
LIST: tuple[str, ...] = (
    "status", "preset", "tgs", "engine", "when", "length", "ranks", "run", "reason",
)  # fmt: skip
"""Columns of the terminal UI's list, from the left, after the marks; 80 columns show the first five whole."""


def columns(names: tuple[str, ...]) -> list[RunColumn]:
    """The columns of these names, in their order."""
    return [COLUMNS[name] for name in names]
