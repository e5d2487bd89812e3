"""A piece of one rank's events, condensed: its steps as columns of numbers, the other events as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from struct import pack
from typing import Any

from msgspec import Struct

from tgsbench.schema.events import Event, Gpu, Heartbeat, Step, StepGlance

_WIDTH = 8
"""Bytes of one number."""


class StepColumns(Struct, array_like=True, gc=False):
    """Consecutive steps of one rank, each figure as the bytes of its doubles.

    Bytes go into the tables of open steps, and to another process, without becoming objects.
    """

    first_step: int
    phases: list[str]
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
        return StepColumns(self.first_step + index, [self.phases[index]], *figures)

    def figures(self) -> tuple[bytes, ...]:
        """All columns of numbers, in the order of the fields."""
        return self.step_s, self.data_s, self.mem_peak, self.tokens, self.labels, self.loss_sum, self.loss

    @property
    def last_step(self) -> int:
        """The newest of them."""
        return self.first_step + len(self.phases) - 1


class RankBatch(Struct, array_like=True):
    """Neighbouring events of one rank."""

    rank: int
    num_events: int
    """All, heartbeats among them: of those only the arrival and the newest one's place count."""
    last_t: float
    steps: list[StepColumns]
    """One entry, but for gaps and repetitions."""
    gpu: Gpu | None
    """The newest sample."""
    gpu_utils: list[float]
    """Of all samples."""
    others: list[Event]
    beat: Heartbeat | None = None
    """The newest heartbeat."""


def condense(events: Sequence[Any]) -> RankBatch:
    """The same events of one rank, at least one; only what the live view folds is kept of them."""
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
    numbers = [step.step for step in steps]
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        yield _column(steps)
        return
    begins = [i for i in range(len(steps)) if not i or numbers[i] != numbers[i - 1] + 1]
    for begin, end in zip(begins, [*begins[1:], len(steps)], strict=True):
        yield _column(steps[begin:end])


def _column(steps: list[Step | StepGlance]) -> StepColumns:
    """Comprehensions that name the attribute take half of what attrgetter does."""
    format_ = f"{len(steps)}d"
    return StepColumns(
        steps[0].step,
        [step.phase for step in steps],
        pack(format_, *[step.step_s for step in steps]),
        pack(format_, *[step.data_s for step in steps]),
        pack(format_, *[step.mem_peak for step in steps]),
        pack(format_, *[step.tokens for step in steps]),
        pack(format_, *[step.labels for step in steps]),
        pack(format_, *[step.loss_sum for step in steps]),
        pack(format_, *[step.loss_sum / step.labels if step.labels else math.nan for step in steps]),
    )
