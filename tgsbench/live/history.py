"""Histories of bounded size: when one is full, neighbours are merged and the resolution halves."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple

TREND_CAPACITY = 512
"""Points a trend keeps; a terminal shows at most about 400 dot columns."""
GRID_CAPACITY = 256
"""Rows a grid keeps; with four figures of 8 bytes that is 8 KiB a rank."""

_MERGED_AT_ONCE = 64
"""Steps that wait at most to be merged into a row."""


class DownsampledSeries:
    """One series over steps: mean, smallest and largest value of each kept point."""

    def __init__(self, capacity: int = TREND_CAPACITY) -> None:
        self.capacity = capacity
        self.stride = 1
        """Samples that one point stands for."""
        self.x: list[float] = []
        self.y: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self._num: list[int] = []

    def add(self, x: float, y: float, low: float | None = None, high: float | None = None) -> None:
        """Append a sample with its spread; a value that is not finite is left out."""
        if not math.isfinite(y):
            return
        low, high = y if low is None else low, y if high is None else high
        if self._num and self._num[-1] < self.stride:
            self._widen_last(y, low, high)
            return
        if len(self.x) >= self.capacity:
            self._halve()
        for values, value in ((self.x, x), (self.y, y), (self.low, low), (self.high, high)):
            values.append(value)
        self._num.append(1)

    def _widen_last(self, y: float, low: float, high: float) -> None:
        num = self._num[-1] = self._num[-1] + 1
        self.y[-1] += (y - self.y[-1]) / num
        if low < self.low[-1]:
            self.low[-1] = low
        if high > self.high[-1]:
            self.high[-1] = high

    def _halve(self) -> None:
        pairs = range(0, len(self.x) - 1, 2)
        num = self._num
        self.y = [(self.y[i] * num[i] + self.y[i + 1] * num[i + 1]) / (num[i] + num[i + 1]) for i in pairs]
        self.low = [min(self.low[i], self.low[i + 1]) for i in pairs]
        self.high = [max(self.high[i], self.high[i + 1]) for i in pairs]
        self.x = [self.x[i] for i in pairs]
        self._num = [num[i] + num[i + 1] for i in pairs]
        self.stride *= 2


class RankRow(NamedTuple):
    """What every rank saw of one step, or of several once rows were merged; NaN: it has not reported.

    Merged rows keep the largest of each figure, so that a straggler is never averaged away, but of the loss
    the mean.
    """

    first_step: int
    last_step: int
    step_s: array[float]
    data_s: array[float]
    mem_peak: array[float]
    loss: array[float]
    """Mean over the rank's own labels; NaN also where it had none."""


def own_row(step: int, own_s: Sequence[float]) -> RankRow:
    """A row of times alone, as the step's."""
    nothing = array("d", [math.nan] * len(own_s))
    return RankRow(step, step, array("d", own_s), nothing, nothing, nothing)


class StepGrid:
    """Rank × step history of bounded size."""

    def __init__(self, capacity: int = GRID_CAPACITY) -> None:
        self.capacity = capacity
        self.stride = 1
        """Steps that one row stands for."""
        self._whole: list[RankRow] = []
        self._open: list[RankRow] = []
        """Steps that will make the next row; merged at once, which is twice as fast as one by one."""

    @property
    def rows(self) -> list[RankRow]:
        """All rows, oldest first; the newest may stand for fewer steps."""
        return [*self._whole, _merged(self._open)] if self._open else self._whole

    def add(self, row: RankRow) -> None:
        """Append one finished step."""
        if not self._open and len(self._whole) >= self.capacity:
            self._halve()
        self._open.append(row)
        if row.last_step - self._open[0].first_step + 1 >= self.stride:
            self._whole.append(_merged(self._open))
            self._open = []
        elif len(self._open) >= _MERGED_AT_ONCE:  # of a million steps a row stands for 4,096
            self._open = [_merged(self._open)]

    def _halve(self) -> None:
        whole = self._whole
        self._whole = [_merged(whole[i : i + 2]) for i in range(0, len(whole), 2)]
        self.stride *= 2


def _merged(rows: Sequence[RankRow]) -> RankRow:
    """One row of several; what a rank did not report in some of them (NaN) the others fill in."""
    if len(rows) == 1:
        return rows[0]
    has_gaps = math.isnan(sum(sum(row.step_s) for row in rows))
    largest = _largest_known if has_gaps else max  # max() with a NaN depends on their order
    return RankRow(
        rows[0].first_step,
        rows[-1].last_step,
        array("d", list(map(largest, *[row.step_s for row in rows]))),
        array("d", list(map(largest, *[row.data_s for row in rows]))),
        array("d", list(map(largest, *[row.mem_peak for row in rows]))),
        _mean([row.loss for row in rows], [row.last_step - row.first_step + 1 for row in rows]),
    )


def _mean(values: Sequence[array[float]], weights: Sequence[int]) -> array[float]:
    """Of each rank, by the steps that a row stands for, were they reported or not; NaN weighs nothing."""
    ranks = zip(*values, strict=True)
    if min(weights) < max(weights) or math.isnan(sum(map(sum, values))):
        return array("d", [_mean_known(own, weights) for own in ranks])
    num = len(values)
    return array("d", [total / num for total in map(sum, ranks)])


def _mean_known(values: Sequence[float], weights: Sequence[int]) -> float:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value == value]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def _largest_known(*values: float) -> float:
    return max((value for value in values if value == value), default=math.nan)
