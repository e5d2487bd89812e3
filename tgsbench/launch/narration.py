"""Says where a run is whenever nothing has been said of it for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tgsbench import units
from tgsbench.metrics import figures
from tgsbench.schema.events import Event, Phase, Step
from tgsbench.schema.preset import Preset

SILENCE_S = 10.0
"""Longest silence towards a user who waits."""


class Narrator:
    """Takes a run's events as they come, and rounds without any; says its phase or step and the time so far.

    `say` gets a line at most every `every_s` seconds of `clock`.
    """

    def __init__(
        self,
        preset: Preset,
        say: Callable[[str], None],
        every_s: float = SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._preset, self._say, self._every_s, self._clock = preset, say, every_s, clock
        self._begin_s = self._said_s = clock()
        self._place = "starting"

    def hear(self, events: Iterable[Event]) -> None:
        """Take new events in; what rank 0 does stands for all."""
        for event in events:
            if isinstance(event, Phase) and event.rank == 0:
                self._place = event.note or event.phase
            elif isinstance(event, Step) and event.rank == 0:
                self._place = self._step(event)
        self.tick()

    def at(self, place: str) -> None:
        """Name the place in the run that the next lines report."""
        self._place = place

    def tick(self) -> None:
        """Say where the run is, if it was silent for long."""
        now_s = self._clock()
        if now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            self._say(f"{self._place}, {units.duration(round(now_s - self._begin_s))} since the start")

    def spoken(self) -> None:
        """Count the silence from now: another part of the program has printed a line."""
        self._said_s = self._clock()

    def _step(self, step: Step) -> str:
        measure = self._preset.measure
        tgs = figures.tgs(step.tokens, 1, step.step_s)
        told = f", TGS about {units.rate(tgs)}" if tgs else ""
        return f"step {step.step + 1}/{measure.warmup + measure.steps}{told}"
