"""A piece of one rank's events, condensed: its steps as columns of numbers, the other events as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter, truediv
from struct import Struct as Packer
from typing import Any

from msgspec import Struct

from tgsbench.schema.events import Event, Gpu, Heartbeat, Step, StepGlance

_WIDTH = 8
"""Bytes of one number."""


class StepColumns(Struct, array_like=True, gc=False):
    """Consecutive steps of one rank and phase, each figure as the bytes of its doubles.

    Bytes go into the tables of open steps, and to another process, without becoming objects.
    """

    first_step: int
    num_steps: int
    phase: str
    step_s: bytes
    data_s: bytes
    mem_peak: bytes
    tokens: bytes
    labels: bytes
    loss_sum: bytes
    loss: bytes
    """Mean over the rank's own labels, NaN where it had none."""

    def one(self, index: int) -> StepColumns:
        """The step at `index` alone."""
        own = slice(index * _WIDTH, (index + 1) * _WIDTH)
        figures = (figure[own] for figure in self.figures())
        return StepColumns(self.first_step + index, 1, self.phase, *figures)

    def figures(self) -> tuple[bytes, ...]:
        """All columns of numbers, in the order of the fields."""
        return self.step_s, self.data_s, self.mem_peak, self.tokens, self.labels, self.loss_sum, self.loss

    @property
    def last_step(self) -> int:
        """The newest of them."""
        return self.first_step + self.num_steps - 1


class RankBatch(Struct, array_like=True):
    """Neighbouring events of one rank."""

    rank: int
    num_events: int
    """All, heartbeats among them: of those only the arrival and the newest one's place count."""
    last_t: float
    steps: list[StepColumns]
    """One entry, but for gaps, repetitions and another phase."""
    gpu: Gpu | None
    """The newest sample."""
    gpu_utils: list[float]
    """Of all samples."""
    others: list[Event]
    """All but steps, samples and heartbeats."""
    beat: Heartbeat | None = None
    """The newest heartbeat."""


def rank_batches(events: Sequence[Any]) -> Iterator[RankBatch]:
    """Events of any ranks, neighbours of one rank together."""
    return (_condensed(list(own)) for _, own in groupby(events, key=attrgetter("rank")))


def condensed(events: Sequence[Any]) -> RankBatch | None:
    """The same events, all of one rank; None of none. Only what the live view folds is kept of them."""
    return _condensed(events) if events else None


def _condensed(events: Sequence[Any]) -> RankBatch:
    steps: list[Step | StepGlance] = []
    gpus: list[Gpu] = []
    others: list[Event] = []
    beat: Heartbeat | None = None
    for event in events:  # a loop takes a third of what comprehensions with `in` do
        kind = type(event)
        if kind is StepGlance or kind is Step:
            steps.append(event)
        elif kind is Gpu:
            gpus.append(event)
        elif kind is Heartbeat:
            beat = event
        else:
            others.append(event)
    last, gpu = events[-1], gpus[-1] if gpus else None
    utils = [sample.util for sample in gpus]
    return RankBatch(last.rank, len(events), last.t, list(_columns(steps)), gpu, utils, others, beat)


def _columns(steps: list[Step | StepGlance]) -> Iterator[StepColumns]:
    if not steps:
        return
    first, phases = steps[0].step, [step.phase for step in steps]
    numbers = [step.step for step in steps]
    if phases.count(phases[0]) == len(steps) and numbers == list(range(first, first + len(steps))):
        yield _column(steps)
        return
    pairs = list(zip(numbers, phases, strict=True))
    begins = [i for i, (step, phase) in enumerate(pairs) if not i or pairs[i - 1] != (step - 1, phase)]
    for begin, end in zip(begins, [*begins[1:], len(steps)], strict=True):
        yield _column(steps[begin:end])


def _column(steps: list[Step | StepGlance]) -> StepColumns:
    """Comprehensions that name the attribute take half of what attrgetter does."""
    all_to_bytes = Packer(f"{len(steps)}d").pack
    labels, loss_sum = [step.labels for step in steps], [step.loss_sum for step in steps]
    return StepColumns(
        steps[0].step,
        len(steps),
        steps[0].phase,
        all_to_bytes(*[step.step_s for step in steps]),
        all_to_bytes(*[step.data_s for step in steps]),
        all_to_bytes(*[step.mem_peak for step in steps]),
        all_to_bytes(*[step.tokens for step in steps]),
        all_to_bytes(*labels),
        all_to_bytes(*loss_sum),
        all_to_bytes(*_means(loss_sum, labels)),
    )


def _means(sums: list[float], nums: Sequence[float]) -> Iterator[float]:
    if 0 in nums:
        return (total / num if num else math.nan for total, num in zip(sums, nums, strict=True))
    return map(truediv, sums, nums)
