"""Folds a run's events into what was observed, step by step over all ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tgsbench.metrics.clock import RankClock
from tgsbench.metrics.packed_steps import PackedSteps, StepsOfPhase
from tgsbench.metrics.packs import PackLedger
from tgsbench.metrics.power import PowerLog
from tgsbench.metrics.slow_ranks import WaitTable
from tgsbench.metrics.step_total import StepTotal
from tgsbench.schema.events import (
    Bye,
    Claimed,
    Data,
    Depth,
    Error,
    Event,
    FirstStep,
    Gpu,
    Heartbeat,
    Hello,
    Kernel,
    Phase,
    RoutedTokens,
    Step,
    Trace,
    Waits,
    Warn,
)

MAX_STEPS = 1_000_000
"""Steps kept; a folder that claims more is damaged, and memory stays bounded."""
MAX_NOTES = 10_000
"""Errors, warnings and traces kept, each kind."""
MAX_TEXT = 64 << 10
"""Characters kept of one message or traceback."""
_MAX_STEP = 2**53


@dataclass
class RunTotals:
    """Everything a run's events said that a result needs."""

    world_size: int = 1 << 16
    """Events of ranks beyond it are passed over: files that do not belong to this run."""
    steps: dict[int, StepTotal] = field(default_factory=dict)
    """Those that some rank has not reported."""
    whole: PackedSteps = field(default_factory=PackedSteps)
    """Those that all have."""
    hellos: dict[int, Hello] = field(default_factory=dict)
    byes: dict[int, Bye] = field(default_factory=dict)
    errors: list[Error] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    depths: list[Depth] = field(default_factory=list)
    """Repetitions of an emulated rank."""
    phases: dict[int, Phase] = field(default_factory=dict)
    """Last phase of each rank."""
    beats: dict[int, Heartbeat] = field(default_factory=dict)
    """Last heartbeat of each rank."""
    waits: WaitTable = field(init=False)
    """How long ranks stood in collectives, step by step."""
    routing: dict[int, RoutedTokens] = field(default_factory=dict)
    """How each rank's tokens went to experts; empty without any."""
    data: Data | None = None
    kernel: Kernel | None = None
    claimed: Claimed | None = None
    first_steps: dict[int, FirstStep] = field(default_factory=dict)
    """What each rank saw of the first optimizer step."""
    mem_peak_by_rank: dict[int, int] = field(default_factory=dict)
    """Over all steps, also those of warm-up and profile."""
    measured_peak_by_rank: dict[int, int] = field(default_factory=dict)
    """Over measured steps alone, as the largest of all ranks is told."""
    first_step_unix: float = 0.0
    """Wall clock when rank 0 began its first step; 0: it has done none, or its hello has no clock."""
    clocks: dict[int, RankClock] = field(default_factory=dict)
    packs: PackLedger = field(default_factory=PackLedger)
    throttled: Counter[str] = field(default_factory=Counter)
    """Reason for held down clocks -> GPU samples that gave it."""
    num_gpu_samples: int = 0
    power: PowerLog = field(default_factory=PowerLog)
    num_repeated: int = 0
    """Reports of a step by a rank that had reported it before; they count once."""

    def __post_init__(self) -> None:
        self.waits = WaitTable(self.world_size)

    def add(self, event: Event) -> None:
        """Take one event in; types that a result does not need are passed over."""
        if not 0 <= event.rank < self.world_size and not (event.rank < 0 and isinstance(event, Warn)):
            return
        match event:
            case Step():
                self._add_step(event)
                self._note_begin(event)
                self.power.end_step(event.rank, measured=event.phase == "measure")
                _raise(self.mem_peak_by_rank, event)
                if event.phase == "measure":
                    _raise(self.measured_peak_by_rank, event)
            case Hello():
                self.hellos[event.rank] = event
            case Bye():
                self.byes[event.rank] = event
            case Error():
                if len(self.errors) < MAX_NOTES:
                    event.msg, event.traceback = event.msg[:MAX_TEXT], event.traceback[-MAX_TEXT:]
                    self.errors.append(event)
            case Warn():
                if len(self.warnings) < MAX_NOTES:
                    event.msg = event.msg[:MAX_TEXT]
                    self.warnings.append(event)
            case Trace():
                if len(self.traces) < MAX_NOTES:
                    self.traces.append(event)
            case Depth():
                if len(self.depths) < MAX_STEPS:
                    self.depths.append(event)
            case Phase():
                self.phases[event.rank] = event
            case Waits():
                self.waits.add(event)
            case RoutedTokens():
                self.routing[event.rank] = event
            case Heartbeat():
                self.beats[event.rank] = event
            case Data():
                self.data = event
            case FirstStep():
                self.first_steps[event.rank] = event
                self.clocks.setdefault(event.rank, RankClock()).looked(event)
            case Claimed():
                self.claimed = event
            case Kernel():
                self.kernel = event
            case Gpu():
                self.num_gpu_samples += 1
                self.power.add(event.rank, event.power_w)
                if event.throttled and (event.throttled in self.throttled or len(self.throttled) < 64):
                    self.throttled[event.throttled] += 1

    def _add_step(self, event: Step) -> None:
        if event.step in self.whole:
            self.num_repeated += 1
        elif (total := self._open_step(event)) is None:
            return
        elif not total.add(event):
            self.num_repeated += 1
        elif total.num_ranks == self.world_size:
            self.whole.append(self.steps.pop(event.step))
        self.clocks.setdefault(event.rank, RankClock()).add(event)
        self.packs.add(event)

    def _note_begin(self, event: Step) -> None:
        hello = self.hellos.get(0)
        if event.rank == event.step == 0 and hello and hello.unix_t and not self.first_step_unix:
            self.first_step_unix = hello.unix_t + event.t - hello.t - event.step_s

    def _open_step(self, event: Step) -> StepTotal | None:
        """The total that the report belongs to; None: one step more than any run has."""
        total = self.steps.get(event.step)
        if total is None and len(self.steps) + len(self.whole) < MAX_STEPS and 0 <= event.step < _MAX_STEP:
            total = self.steps[event.step] = StepTotal(event.step, event.phase)
        return total

    def seconds_between_clocks(self) -> dict[str, float]:
        """Host -> wall clock minus its monotonic clock, from the host's first hello.

        Monotonic clocks count from each host's start, so times of two hosts compare only with this added;
        one offset per host, so that a wall clock that jumps does not reorder what one host saw.
        """
        first: dict[str, Hello] = {}
        for hello in self.hellos.values():
            known = first.get(hello.host)
            if hello.unix_t and (known is None or hello.t < known.t):
                first[hello.host] = hello
        return {host: hello.unix_t - hello.t for host, hello in first.items()}

    def hosts(self) -> list[str]:
        """Machines in the order of their first rank."""
        return list(dict.fromkeys(self.hellos[rank].host for rank in sorted(self.hellos)))

    def complete(self, phase: str, world_size: int) -> Sequence[StepTotal]:
        """Steps of one phase (empty: of any) that every rank reported, in order."""
        if world_size == self.world_size:
            return StepsOfPhase(self.whole, phase)
        totals = (self.steps[step] for step in sorted(self.steps))
        return [t for t in totals if phase in ("", t.phase) and t.num_ranks == world_size]


def _raise(peaks: dict[int, int], step: Step) -> None:
    peaks[step.rank] = max(peaks.get(step.rank, 0), step.mem_peak)


def fold_events(events: Iterable[Event], world_size: int = 1 << 16) -> RunTotals:
    """Fold all events of ranks below `world_size`."""
    observed = RunTotals(world_size)
    for event in events:
        observed.add(event)
    return observed
