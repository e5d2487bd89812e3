"""Which runs a list shows, and in which order; pure over the list of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tgsbench.errors import TgsError, nearest
from tgsbench.results.index import Summary
from tgsbench.results.run_columns import COLUMNS

_LARGEST_FIRST = ("tgs", "n", "when", "length", "ranks")


class Filter(Struct, frozen=True, kw_only=True):
    """Conditions that a listed run meets; a field that is None sets none."""

    tag: str | None = None
    status: str | None = None
    preset: str | None = None
    """Part of its preset's name."""
    engine: str | None = None
    newer_than_s: float | None = None

    def takes(self, run: Summary, now_unix: float) -> bool:
        """Does the run meet every condition?"""
        return (
            (self.tag is None or self.tag in run.tags)
            and self.status in (None, run.status)
            and (self.preset is None or self.preset.lower() in run.preset.lower())
            and self.engine in (None, run.engine)
            and (self.newer_than_s is None or now_unix - run.created_unix <= self.newer_than_s)
        )

    def __str__(self) -> str:
        asked = {name: getattr(self, name) for name in ("tag", "status", "preset", "engine")}
        told = [f"{name} {value}" for name, value in asked.items() if value is not None]
        return " and ".join(told + ["that age"] * (self.newer_than_s is not None))


def in_order(found: Sequence[Summary], column: str) -> list[Summary]:
    """By one column, figures largest first and texts from a to z; those without a value last.

    Raises TgsError that names the columns.
    """
    if column not in COLUMNS:
        raise TgsError(f"no column called {column!r}; {nearest(column, COLUMNS)}", hint=", ".join(COLUMNS))
    value = COLUMNS[column].value
    known = [run for run in found if not _is_missing(value(run))]
    known.sort(key=value, reverse=column in _LARGEST_FIRST)
    return known + [run for run in found if _is_missing(value(run))]


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value == []
