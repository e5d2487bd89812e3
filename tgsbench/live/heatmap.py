"""Rank × step cells for the screen: ranks side by side, newest step at the bottom; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tgsbench.live.fold import LiveRun
from tgsbench.live.history import RankRow
from tgsbench.live.stragglers import slow_ratios

LEVELS: tuple[float, ...] = (1.02, 1.05, 1.10, 1.25)
"""Ratios to the median rank at which a cell gets darker; 1.10 is where a rank counts as slow."""
OWN_TIME = "own time"
"""A step's time without what the rank stood in collectives: this shows whom the others wait for."""
METRICS: dict[str, Callable[[RankRow], Sequence[float]]] = {
    "step time": lambda row: row.step_s,
    "data time": lambda row: row.data_s,
    "memory": lambda row: row.mem_peak,
    OWN_TIME: lambda row: row.step_s,
}


@dataclass(frozen=True)
class Cell:
    """One or more ranks in one row."""

    ratio: float
    """Largest ratio of its ranks to the median rank; NaN where none reported."""
    level: int
    """0 to len(LEVELS); -1 for missing."""


@dataclass(frozen=True)
class HeatRow:
    """One step, or several once rows were merged."""

    first_step: int
    last_step: int
    cells: list[Cell]


@dataclass(frozen=True)
class Heatmap:
    """What is drawn: `groups[i]` is the range of ranks of column i."""

    groups: list[range]
    rows: list[HeatRow]


def rows_of(live: LiveRun, metric: str) -> list[RankRow]:
    """The rows that a metric is taken from."""
    return live.own_grid.rows if metric == OWN_TIME else live.grid.rows


def heatmap(rows: Sequence[RankRow], world: int, metric: str, max_columns: int, max_rows: int) -> Heatmap:
    """The newest `max_rows` rows, ranks joined (largest ratio shown) where they outnumber `max_columns`."""
    size = -(-world // max(1, max_columns))
    groups = [range(at, min(at + size, world)) for at in range(0, world, size)]
    value = METRICS[metric]
    shown = [_row(row, value(row), groups) for row in rows[-max_rows:]] if max_rows > 0 else []
    return Heatmap(groups, shown)


def _row(row: RankRow, values: Sequence[float], groups: list[range]) -> HeatRow:
    ratios = slow_ratios(values)
    return HeatRow(row.first_step, row.last_step, [_cell([ratios[r] for r in group]) for group in groups])


def _cell(ratios: list[float]) -> Cell:
    known = [r for r in ratios if r == r]
    if len(known) < len(ratios) or not known:
        return Cell(max(known, default=math.nan), -1)
    worst = max(known)
    return Cell(worst, sum(worst >= level for level in LEVELS))
