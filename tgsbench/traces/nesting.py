"""Which operator is innermost at each instant of a thread, for whole threads at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Nesting:
    """The intervals of one thread as a forest; zero-length ones are left out.

    `rows` numbers the intervals given, in order of start, outer before inner; `start`, `end` (cut off where
    the parent ends), `parent` (position, -1: none) and `levels` (positions by depth) refer to that order.
    """

    rows: Ints
    start: Ints
    end: Ints
    parent: Ints
    levels: list[Ints]


@dataclass(frozen=True)
class Segments:
    """The time line cut at every start and end: `owner[i]` is innermost from `at[i]` to `at[i + 1]`."""

    at: Ints
    owner: Ints

    def owner_at(self, instants: npt.NDArray[Any]) -> Ints:
        """Position of the innermost interval at each instant; -1: none."""
        if not len(self.at):
            return np.full(len(instants), -1, np.int64)
        index = np.searchsorted(self.at, instants, "right") - 1
        return np.where(index >= 0, self.owner[index], -1)


def nest(start: Ints, end: Ints) -> Nesting:
    """Order intervals into a forest.

    One that crosses its parent's end is cut there; of two that cross on one level the first is cut.
    """
    rows = np.flatnonzero(end > start)
    rows = rows[np.lexsort((-end[rows], start[rows]))]
    start, end = start[rows], end[rows].copy()
    depth = np.arange(len(rows)) - np.searchsorted(np.sort(end), start, "right")
    by_depth = np.argsort(depth, kind="stable")
    cuts = np.flatnonzero(np.diff(depth[by_depth])) + 1
    levels = np.split(by_depth, cuts) if len(rows) else []
    parent = np.full(len(rows), -1, np.int64)
    for number, level in enumerate(levels):
        if number:
            _attach(levels[number - 1], level, start, end, parent)
        end[level[:-1]] = np.minimum(end[level[:-1]], start[level[1:]])
    return Nesting(rows, start, end, parent, levels)


def _attach(above: Ints, level: Ints, start: Ints, end: Ints, parent: Ints) -> None:
    index = np.searchsorted(start[above], start[level], "right") - 1
    candidate = above[np.maximum(index, 0)]
    inside = (index >= 0) & (end[candidate] > start[level])
    parent[level] = np.where(inside, candidate, -1)
    end[level] = np.where(inside, np.minimum(end[level], end[candidate]), end[level])


def segments(forest: Nesting) -> Segments:
    """Cut the time line at every start and end."""
    outer_first = np.concatenate(forest.levels) if forest.levels else np.empty(0, np.int64)
    # Cutting may have left nothing of some.
    outer_first = outer_first[forest.end[outer_first] > forest.start[outer_first]]
    inner_first = outer_first[::-1]
    at = np.concatenate((forest.end[inner_first], forest.start[outer_first]))
    owner = np.concatenate((forest.parent[inner_first], outer_first))
    # At one instant a stable sort leaves ends before starts, the inner end and the outer start first.
    order = np.argsort(at, kind="stable")
    at, owner = at[order], owner[order]
    last = np.append(at[1:] > at[:-1], True) if len(at) else np.empty(0, bool)
    return Segments(at[last], owner[last])
