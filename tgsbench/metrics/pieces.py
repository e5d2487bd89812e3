"""A piece of one rank's events, condensed: its steps as columns of numbers, the other events as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter
from struct import pack
from typing import Any

from msgspec import Struct

from tgsbench.schema.events import Event, Heartbeat, Step, StepGlance

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
        figures = (
            self.step_s, self.data_s, self.mem_peak, self.tokens, self.labels, self.loss_sum, self.loss
        )  # fmt: skip
        return StepColumns(
            self.first_step + index, [self.phases[index]], *(figure[own] for figure in figures)
        )

    @property
    def last_step(self) -> int:
        """The newest of them."""
        return self.first_step + len(self.phases) - 1


class Piece(Struct, array_like=True):
    """Neighbouring events of one rank."""

    rank: int
    num_events: int
    last_t: float
    steps: list[StepColumns]
    """One entry, but for gaps and repetitions."""
    others: list[Event]
    """All but heartbeats, of which only the arrival counts."""


_NUMBERS = (Step, StepGlance)
_CONDENSED = (*_NUMBERS, Heartbeat)


def condensed(events: Sequence[Any]) -> Piece:
    """The same events of one rank, at least one; their steps keep only what the live view folds."""
    steps = [event for event in events if type(event) in _NUMBERS]
    others = [event for event in events if type(event) not in _CONDENSED]
    return Piece(events[-1].rank, len(events), events[-1].t, list(_columns(steps)), others)


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
    format_ = f"{len(steps)}d"

    def figure(name: str) -> bytes:
        return pack(format_, *map(attrgetter(name), steps))

    return StepColumns(
        steps[0].step, [step.phase for step in steps], figure("step_s"), figure("data_s"),
        figure("mem_peak"), figure("tokens"), figure("labels"), figure("loss_sum"),
        pack(format_, *[step.loss_sum / step.labels if step.labels else math.nan for step in steps]),
    )  # fmt: skip
