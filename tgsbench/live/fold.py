"""The live view-model: a fold of events into what a screen shows, in constant memory per rank."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import unpack
from typing import Any

from tgsbench.events.step_columns import RankBatch, rank_batches
from tgsbench.live.history import DownsampledSeries, RankRow, StepGrid, own_row
from tgsbench.live.pending import MAX_PENDING_STEPS, ClosedStep, PendingSteps
from tgsbench.metrics import figures
from tgsbench.metrics.progress import LONG_STEP_S, least_far
from tgsbench.metrics.slow_ranks import WaitTable
from tgsbench.metrics.thinned import Thinned
from tgsbench.schema import events as ev

MAX_NOTES = 200
"""Warnings and errors kept; later ones are counted."""
STEPPING = ("warmup", "measure", "profile")
"""Phases that consist of optimizer steps."""
NUM_RECENT = 3
"""Steps kept unmerged, to find a straggler in."""
GPU_HISTORY = 60
"""GPU samples kept per rank: one minute at the one a second that ranks write."""


class RankState:
    """The newest that is known of one rank."""

    __slots__ = (
        "beat", "bye", "device", "error", "first_t", "gpu", "gpu_utils", "host", "last_t", "mem_peak", "note",
        "phase", "pid", "rank", "seen_at", "step",
    )  # fmt: skip

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.host = ""
        self.device = ""
        self.pid = 0
        self.phase = ""
        self.note = ""
        self.step = -1
        self.mem_peak: float | None = None
        """Peak memory of the newest step, bytes."""
        self.first_t = math.nan
        self.last_t = math.nan
        """Times of hello and of the newest event on the host's monotonic clock."""
        self.seen_at = math.nan
        """Reader's monotonic clock when the newest event arrived."""
        self.gpu: ev.Gpu | None = None
        self.gpu_utils: deque[float] = deque(maxlen=GPU_HISTORY)
        self.beat: ev.Heartbeat | None = None
        """The newest heartbeat: where in its step the rank is."""
        self.error: ev.Error | None = None
        self.bye: str = ""


@dataclass
class Note:
    """One warning or error, as the screen lists it."""

    rank: int
    t: float
    severity: str
    """warning | error"""
    title: str
    msg: str
    hint: str = ""
    traceback: str = ""


@dataclass
class LiveRun:
    """Everything folded from a run's events so far; `add_batch` is the only way in."""

    world: int
    """Ranks that run."""
    alone: int | None = None
    """The one rank that runs, of a virtual world; None: ranks 0 to `world`."""
    ranks: list[RankState] = field(init=False)
    pending: PendingSteps = field(init=False)
    grid: StepGrid = field(default_factory=StepGrid)
    own_grid: StepGrid = field(default_factory=StepGrid)
    """The same of the time that each rank did not stand in collectives, as its step time."""
    waits: WaitTable = field(init=False)
    """Who holds the others up, by how long each waits for others."""
    recent: deque[RankRow] = field(default_factory=lambda: deque(maxlen=NUM_RECENT))
    """The newest closed steps as they are; rows of the grid come to stand for several steps."""
    tgs: DownsampledSeries = field(default_factory=DownsampledSeries)
    step_s: DownsampledSeries = field(default_factory=DownsampledSeries)
    """Slowest rank, with the spread over ranks."""
    loss: DownsampledSeries = field(default_factory=DownsampledSeries)
    mem_peak: DownsampledSeries = field(default_factory=DownsampledSeries)
    tgs_samples: Thinned = field(default_factory=Thinned)
    """TGS of the measured steps that all ranks reported."""
    step_samples: Thinned = field(default_factory=Thinned)
    measured_tokens: int = 0
    measured_s: float = 0.0
    last_closed_step: int = -1
    num_complete: int = 0
    num_partial: int = 0
    """Steps given up on because a rank never reported them."""
    num_events: int = 0
    num_foreign: int = 0
    """Events of ranks outside the world."""
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=MAX_NOTES))
    num_notes: int = 0
    data: ev.Data | None = None
    kernel: ev.Kernel | None = None
    traces: list[ev.Trace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = self.alone or 0
        self.ranks = [RankState(self._first + index) for index in range(self.world)]
        self.pending = PendingSteps(self.world)
        self._handlers: dict[type[Any], Callable[[RankState, Any], None]] = {
            ev.Hello: self._hello,
            ev.Phase: self._phase,
            ev.Data: self._data,
            ev.Kernel: self._kernel,
            ev.Depth: lambda _state, _event: None,  # an emulated rank has no steps to show
            ev.Claimed: lambda _state, _event: None,
            ev.FirstStep: lambda _state, _event: None,
            ev.Trace: self._trace,
            ev.Warn: self._warn,
            ev.Error: self._error,
            ev.Waits: self._waits,
            ev.Bye: self._bye,
        }
        self.waits = WaitTable(self.world)

    def add_events(self, events: Sequence[Any], now: float = math.nan) -> list[ClosedStep]:
        """Take in events of any ranks, each rank's own in their order; returns the steps that are over.

        `now` is the reader's monotonic clock in seconds, NaN when the events are not live.
        """
        for batch in rank_batches(events):
            self.add_batch(batch, now)
        return self.close_steps()

    def add_batch(self, batch: RankBatch, now: float = math.nan) -> None:
        """Take in a piece of one rank; its steps stay open until `close_steps`: once a round over all."""
        self.num_events += batch.num_events
        if 0 <= (index := batch.rank - self._first) < self.world:
            self._add_to_rank(self.ranks[index], batch, now)
        else:
            self.num_foreign += batch.num_events - len(batch.others)
            for event in batch.others:
                self._elsewhere(event)

    def close_steps(self) -> list[ClosedStep]:
        """Take steps that every rank has passed into histories and figures, and return them in order."""
        found = list(self.pending.close())
        for closed in found:
            self._close(closed)
        return found

    def _add_to_rank(self, state: RankState, batch: RankBatch, now: float) -> None:
        for event in batch.others:
            self._handlers[type(event)](state, event)
        state.last_t, state.seen_at = batch.last_t, now
        state.gpu = batch.gpu or state.gpu
        state.beat = batch.beat or state.beat
        state.gpu_utils.extend(batch.gpu_utils)
        for steps in batch.steps:
            self.pending.add(state.rank - self._first, steps)
        if batch.steps and batch.steps[-1].last_step > state.step:
            state.step = batch.steps[-1].last_step
            (state.mem_peak,) = unpack("d", batch.steps[-1].mem_peak[-8:])

    def _elsewhere(self, event: Any) -> None:
        """Warnings of a node's supervisor (ranks below 0) are kept; ranks beyond the world are not ours."""
        if event.rank < 0 and isinstance(event, ev.Warn):
            self._note(Note(event.rank, event.t, "warning", event.code, event.msg, event.hint))
        else:
            self.num_foreign += 1

    def is_ahead(self, rank: int) -> bool:
        """Has the rank so many steps waiting for others that it had better be read more slowly?"""
        index = rank - self._first
        return 0 <= index < self.world and self.pending.num_waiting(index) > MAX_PENDING_STEPS // 4

    @property
    def num_ignored(self) -> int:
        """Duplicates, steps that are already closed, and events of ranks outside the world."""
        return self.num_foreign + self.pending.num_ignored

    @property
    def long_step(self) -> ev.Heartbeat | None:
        """Where the rank that is least far stands in a step that takes long; None in a short one."""
        beat = least_far(state.beat for state in self.ranks if state.beat is not None)
        if beat is None or beat.step <= self.last_closed_step or self.phase not in STEPPING:
            return None
        return beat if beat.step_s >= LONG_STEP_S and beat.num_micro_steps > 0 else None

    @property
    def front_step(self) -> int:
        """The newest step that any rank reported; -1 before the first."""
        return max((state.step for state in self.ranks), default=-1)

    @property
    def phase(self) -> str:
        """The phase of the rank that is least far; empty before any rank spoke."""
        known = [state.phase for state in self.ranks if state.phase in ev.PHASES]
        return min(known, key=ev.PHASES.index, default="")

    @property
    def elapsed_s(self) -> float:
        """Longest time from a rank's hello to its newest event; 0 before the first."""
        spans = [state.last_t - state.first_t for state in self.ranks]
        return max((span for span in spans if span == span), default=0.0)

    @property
    def median_step_s(self) -> float:
        """Median seconds per measured step, else per step so far; NaN before the first."""
        if self.step_samples:
            return statistics.median(self.step_samples)
        return statistics.median(self.step_s.y) if self.step_s.y else math.nan

    def _close(self, closed: ClosedStep) -> None:
        """Add a step that is over to the histories, and to trends and samples when all ranks reported it."""
        self.recent.append(closed.row)
        self.grid.add(closed.row)
        self.last_closed_step = closed.total.step
        if closed.is_complete:
            self._measure(closed)
        else:
            self.num_partial += 1

    def _measure(self, closed: ClosedStep) -> None:
        total, slowest = closed.total, closed.total.step_s
        self.num_complete += 1
        self.step_s.add(total.step, slowest, closed.fastest_s, slowest)
        self.mem_peak.add(total.step, float(total.mem_peak), closed.least_mem_peak)
        if total.loss is not None:
            self.loss.add(total.step, total.loss)
        tgs = figures.tgs(total.tokens, self.world, slowest)
        if tgs is None:
            return
        self.tgs.add(total.step, tgs)
        if total.phase == "measure":
            self.tgs_samples.append(tgs)
            self.step_samples.append(slowest)
            self.measured_tokens += total.tokens
            self.measured_s += slowest

    def _hello(self, state: RankState, event: ev.Hello) -> None:
        state.host, state.device, state.pid = event.host, event.device, event.pid
        state.first_t = event.t

    def _phase(self, state: RankState, event: ev.Phase) -> None:
        state.phase, state.note = event.phase, event.note

    def _data(self, state: RankState, event: ev.Data) -> None:
        self.data = event

    def _kernel(self, state: RankState, event: ev.Kernel) -> None:
        self.kernel = event

    def _trace(self, state: RankState, event: ev.Trace) -> None:
        if len(self.traces) < MAX_NOTES:
            self.traces.append(event)

    def _warn(self, state: RankState, event: ev.Warn) -> None:
        self._note(Note(state.rank, event.t, "warning", event.code, event.msg, event.hint))

    def _error(self, state: RankState, event: ev.Error) -> None:
        state.error = state.error or event
        note = Note(state.rank, event.t, "error", event.kind, event.msg, event.hint, event.traceback)
        self._note(note)

    def _note(self, note: Note) -> None:
        self.num_notes += 1
        self.notes.append(note)

    def _waits(self, _state: RankState, event: ev.Waits) -> None:
        """The time that a rank's step took without its waits is its own: what a heatmap of ranks can show."""
        for row in self.waits.add(event):
            own = [step_s - wait_s for step_s, wait_s in zip(row.step_s, row.wait_s, strict=True)]
            self.own_grid.add(own_row(row.step, own))

    def _bye(self, state: RankState, event: ev.Bye) -> None:
        state.bye = event.status
