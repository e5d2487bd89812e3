"""Histories of bounded size: when one is full, neighbours are merged and the resolution halves."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

TREND_CAPACITY = 512
"""Points a trend keeps; a terminal shows at most about 400 dot columns."""
GRID_CAPACITY = 256
"""Rows a grid keeps; with three figures of 8 bytes that is 6 KiB a rank."""


class Trend:
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
        num = self._num[-1]
        self.y[-1] += (y - self.y[-1]) / (num + 1)
        self.low[-1] = min(self.low[-1], low)
        self.high[-1] = max(self.high[-1], high)
        self._num[-1] = num + 1

    def _halve(self) -> None:
        pairs = range(0, len(self.x) - 1, 2)
        num = self._num
        self.y = [(self.y[i] * num[i] + self.y[i + 1] * num[i + 1]) / (num[i] + num[i + 1]) for i in pairs]
        self.low = [min(self.low[i], self.low[i + 1]) for i in pairs]
        self.high = [max(self.high[i], self.high[i + 1]) for i in pairs]
        self.x = [self.x[i] for i in pairs]
        self._num = [num[i] + num[i + 1] for i in pairs]
        self.stride *= 2


@dataclass
class StepRow:
    """What every rank saw of one step, or the largest of several steps once rows were merged.

    A rank that has not reported holds NaN.
    """

    first_step: int
    last_step: int
    step_s: array[float]
    data_s: array[float]
    mem_peak: array[float]


@dataclass
class StepGrid:
    """Rank × step history; merged rows keep the largest value, so that a straggler is never averaged away."""

    capacity: int = GRID_CAPACITY
    stride: int = 1
    """Steps that one row stands for."""
    rows: list[StepRow] = field(default_factory=list)

    def add(self, row: StepRow) -> None:
        """Append one finished step."""
        if self.rows and self._num_steps(self.rows[-1]) < self.stride:
            _absorb(self.rows[-1], row)
            return
        if len(self.rows) >= self.capacity:
            self._halve()
        self.rows.append(row)

    def _halve(self) -> None:
        for i in range(0, len(self.rows) - 1, 2):
            _absorb(self.rows[i], self.rows[i + 1])
        self.rows = self.rows[::2]
        self.stride *= 2

    @staticmethod
    def _num_steps(row: StepRow) -> int:
        return row.last_step - row.first_step + 1


def _absorb(row: StepRow, later: StepRow) -> None:
    row.last_step = later.last_step
    row.step_s = _largest(row.step_s, later.step_s)
    row.data_s = _largest(row.data_s, later.data_s)
    row.mem_peak = _largest(row.mem_peak, later.mem_peak)


def _largest(ours: array[float], theirs: array[float]) -> array[float]:
    """The larger of each pair; what one lacks (NaN) the other fills in."""
    return array("d", [b if b > a or a != a else a for a, b in zip(ours, theirs, strict=True)])
