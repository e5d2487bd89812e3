"""Folds a run's events into what was observed, step by step over all ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tgsbench.schema.events import (
    Bye,
    Claimed,
    Data,
    Depth,
    Error,
    Event,
    Gpu,
    Hello,
    Kernel,
    Phase,
    Step,
    Trace,
    Warn,
)

_MODULUS = 2**61 - 1
MAX_STEPS = 1_000_000
"""Steps kept; a folder that claims more is damaged, and memory stays bounded."""
MAX_NOTES = 10_000
"""Errors, warnings and traces kept, each kind."""
MAX_TEXT = 64 << 10
"""Characters kept of one message or traceback."""
_MAX_STEP = 2**53
_MIN_STEP_S = 1e-9


@dataclass
class StepTotal:
    """One optimizer step over the ranks that reported it."""

    step: int
    phase: str
    num_ranks: int = 0
    tokens: int = 0
    labels: int = 0
    loss_sum: float = 0.0
    step_s: float = 0.0
    """Slowest rank."""
    data_share: float = 0.0
    """Waiting for data over the step's time, of the rank where it is largest."""
    grad_norm: float = 0.0
    """Largest that a rank reported; all report the same."""
    mem_peak: int = 0
    mem_reserved: int = 0
    mem_alloc: int = 0
    pack_tokens: int = 0
    seen_checksum: int = 0
    pack_checksum: int = 0
    a2a_calls: int = 0
    a2a_bytes: int = 0
    reported: int = 0
    """Bit r is set once rank r has reported: a step told twice counts once."""

    def add(self, event: Step) -> None:
        """Take one rank's report in."""
        if self.reported >> event.rank & 1:
            return
        self.reported |= 1 << event.rank
        self.num_ranks += 1
        self.tokens += event.tokens
        self.labels += event.labels
        self.loss_sum += event.loss_sum
        self.step_s = max(self.step_s, event.step_s)
        if event.data_s > 0:
            self.data_share = max(self.data_share, event.data_s / max(event.step_s, _MIN_STEP_S))
        self.grad_norm = max(self.grad_norm, event.grad_norm)
        self.mem_peak = max(self.mem_peak, event.mem_peak)
        self.mem_reserved = max(self.mem_reserved, event.mem_reserved)
        self.mem_alloc = max(self.mem_alloc, event.mem_alloc)
        self.pack_tokens += event.pack_tokens
        self.seen_checksum = (self.seen_checksum + event.seen_checksum) % _MODULUS
        self.pack_checksum = (self.pack_checksum + event.pack_checksum) % _MODULUS
        self.a2a_calls += event.a2a_calls
        self.a2a_bytes += event.a2a_bytes

    @property
    def loss(self) -> float | None:
        """Label-weighted mean loss."""
        return self.loss_sum / self.labels if self.labels else None


@dataclass
class RunTotals:
    """Everything a run's events said that a result needs."""

    world_size: int = 1 << 16
    """Events of ranks beyond it are passed over: files that do not belong to this run."""
    steps: dict[int, StepTotal] = field(default_factory=dict)
    hellos: dict[int, Hello] = field(default_factory=dict)
    byes: dict[int, Bye] = field(default_factory=dict)
    errors: list[Error] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    depths: list[Depth] = field(default_factory=list)
    """Repetitions of an emulated rank."""
    phases: dict[int, Phase] = field(default_factory=dict)
    """Last phase of each rank."""
    data: Data | None = None
    kernel: Kernel | None = None
    claimed: Claimed | None = None
    mem_peak_by_rank: dict[int, int] = field(default_factory=dict)
    throttled: Counter[str] = field(default_factory=Counter)
    """Reason for held down clocks -> GPU samples that gave it."""
    num_gpu_samples: int = 0

    def add(self, event: Event) -> None:
        """Take one event in; types that a result does not need are passed over."""
        if not 0 <= event.rank < self.world_size and not (event.rank < 0 and isinstance(event, Warn)):
            return
        match event:
            case Step():
                self._add_step(event)
                peak = self.mem_peak_by_rank.get(event.rank, 0)
                self.mem_peak_by_rank[event.rank] = max(peak, event.mem_peak)
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
            case Data():
                self.data = event
            case Claimed():
                self.claimed = event
            case Kernel():
                self.kernel = event
            case Gpu():
                self.num_gpu_samples += 1
                if event.throttled and (event.throttled in self.throttled or len(self.throttled) < 64):
                    self.throttled[event.throttled] += 1
            case _:
                pass

    def _add_step(self, event: Step) -> None:
        total = self.steps.get(event.step)
        if total is None:
            if len(self.steps) >= MAX_STEPS or not 0 <= event.step < _MAX_STEP:
                return
            total = self.steps[event.step] = StepTotal(event.step, event.phase)
        total.add(event)

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

    def complete(self, phase: str, world_size: int) -> list[StepTotal]:
        """Steps of one phase (empty: of any) that every rank reported, in order."""
        totals = (self.steps[step] for step in sorted(self.steps))
        return [t for t in totals if phase in ("", t.phase) and t.num_ranks == world_size]


def fold_events(events: Iterable[Event], world_size: int = 1 << 16) -> RunTotals:
    """Fold all events of ranks below `world_size`."""
    observed = RunTotals(world_size)
    for event in events:
        observed.add(event)
    return observed
