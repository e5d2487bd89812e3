"""Steps that some rank has not reported yet: a table of figures, step by rank, closed from the front."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from tgsbench.events.step_columns import StepColumns
from tgsbench.live.history import RankRow
from tgsbench.metrics.step_total import StepTotal

MAX_PENDING_STEPS = 512
"""Steps that may wait for a rank; beyond it the oldest is taken as it is."""
MAX_GAP_STEPS = 2 * MAX_PENDING_STEPS
"""A step number so far beyond the rank's last one is damage, not steps that were lost."""


class ClosedStep(NamedTuple):
    """One step that all ranks reported, or that is waited for no longer."""

    total: StepTotal
    row: RankRow
    """NaN for a rank that did not report."""
    is_complete: bool
    """Whether all ranks reported it."""
    fastest_s: float
    """Fastest rank; meaningless where a rank is missing, as is the next."""
    least_mem_peak: float


class PendingSteps:
    """Takes in each rank's steps in its order, hands steps out in order once nothing more comes for them.

    A rank reports its steps in order, so a step is over when every rank has reported it or a later one.
    A table per figure holds one step after the other, NaN where a rank has not reported: a piece of a file is
    a stride of it that one call fills, a step that is over is a slice, and no number is an object meanwhile.
    """

    def __init__(self, world: int) -> None:
        self.first = 0
        """The oldest step that is open."""
        self.num_ignored = 0
        """Steps that were closed already, reported twice, or implausibly far ahead."""
        self._world = world
        self._step_s, self._data_s, self._mem_peak = array("d"), array("d"), array("d")
        self._tokens, self._labels = array("d"), array("d")
        self._loss_sum, self._loss = array("d"), array("d")
        self._num_passed = [0] * world
        """Open steps that a rank has reported or skipped."""
        self._phases: list[str] = []

    def __len__(self) -> int:
        return len(self._phases)

    def num_waiting(self, rank: int) -> int:
        """Steps that the rank has reported and that are still open."""
        return self._num_passed[rank]

    def add(self, rank: int, steps: StepColumns) -> None:
        """Take in some steps of one rank."""
        at = self._num_passed[rank]
        if steps.first_step == self.first + at:
            self._put(rank, at, steps)
        else:
            for index in range(steps.num_steps):
                self._place(rank, steps.one(index))

    def close(self) -> Iterator[ClosedStep]:
        """Hand out the steps that every rank has passed, and the oldest of too many."""
        over = max(min(self._num_passed), len(self) - MAX_PENDING_STEPS)
        closed = [self._closed(index) for index in range(over)]
        self._drop(over)
        return (step for step in closed if step is not None)

    def _put(self, rank: int, at: int, steps: StepColumns) -> None:
        """Enter consecutive steps of one rank from index `at` on."""
        end = at + steps.num_steps
        self._open(end, steps.phase)
        own = slice(at * self._world + rank, end * self._world, self._world)
        for table, figure in zip(self._tables(), steps.figures(), strict=True):
            table[own] = array("d", figure)
        self._num_passed[rank] = max(self._num_passed[rank], end)

    def _open(self, end: int, phase: str) -> None:
        """Make room up to index `end` for steps of a phase."""
        num_new = end - len(self)
        if num_new <= 0:
            return
        self._phases += [phase] * num_new
        unknown = array("d", [math.nan]) * (num_new * self._world)
        for table in self._tables():
            table += unknown

    def _tables(self) -> tuple[array[float], ...]:
        """In the order of StepColumns.figures."""
        return (
            self._step_s, self._data_s, self._mem_peak, self._tokens, self._labels, self._loss_sum, self._loss
        )  # fmt: skip

    def _place(self, rank: int, step: StepColumns) -> None:
        """A step out of turn: after a gap, again, or of a run that does not count from 0."""
        if not len(self) and step.first_step >= self.first + MAX_PENDING_STEPS:
            self.first = step.first_step - MAX_PENDING_STEPS // 2  # nothing waits: the run goes on from here
        at = step.first_step - self.first
        is_absurd = at - self._num_passed[rank] >= MAX_GAP_STEPS
        if at < 0 or is_absurd or self._has_reported(rank, at):
            self.num_ignored += 1
        else:
            self._put(rank, at, step)

    def _has_reported(self, rank: int, at: int) -> bool:
        return at < self._num_passed[rank] and not math.isnan(self._step_s[at * self._world + rank])

    def _closed(self, index: int) -> ClosedStep | None:
        """The open step at `index`; one that no rank reported is no step."""
        step, ranks = self.first + index, slice(index * self._world, (index + 1) * self._world)
        own = (self._step_s[ranks], self._data_s[ranks], self._mem_peak[ranks], self._loss[ranks])
        row = RankRow(step, step, *own)
        step_s, mem_peak = row.step_s.tolist(), row.mem_peak.tolist()
        sums = (self._tokens[ranks], self._labels[ranks], self._loss_sum[ranks])
        total = StepTotal.of_ranks(step, self._phases[index], step_s, mem_peak, *sums)
        if not total.num_ranks:
            return None
        is_complete = total.num_ranks == self._world
        return ClosedStep(total, row, is_complete, min(step_s), min(mem_peak))

    def _drop(self, num: int) -> None:
        """Forget the `num` oldest steps."""
        for table in self._tables():
            del table[: num * self._world]
        del self._phases[:num]
        self._num_passed = [max(0, passed - num) for passed in self._num_passed]
        self.first += num
