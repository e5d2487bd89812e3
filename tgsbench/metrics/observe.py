"""Folds a run's events into what was observed, step by step over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tgsbench.schema.events import Bye, Data, Error, Event, Gpu, Hello, Kernel, Phase, Step, Trace, Warn

_MODULUS = 2**61 - 1


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
    mem_peak: int = 0
    mem_reserved: int = 0
    mem_alloc: int = 0
    pack_tokens: int = 0
    seen_checksum: int = 0
    pack_checksum: int = 0
    a2a_calls: int = 0
    a2a_bytes: int = 0

    def add(self, event: Step) -> None:
        """Take one rank's report in."""
        self.num_ranks += 1
        self.tokens += event.tokens
        self.labels += event.labels
        self.loss_sum += event.loss_sum
        self.step_s = max(self.step_s, event.step_s)
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
class Observed:
    """Everything a run's events said that a result needs."""

    steps: dict[int, StepTotal] = field(default_factory=dict)
    hellos: dict[int, Hello] = field(default_factory=dict)
    byes: dict[int, Bye] = field(default_factory=dict)
    errors: list[Error] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    phases: dict[int, Phase] = field(default_factory=dict)
    """Last phase of each rank."""
    data: Data | None = None
    kernel: Kernel | None = None
    mem_peak_by_rank: dict[int, int] = field(default_factory=dict)
    throttled: set[str] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Take one event in; types that a result does not need are passed over."""
        match event:
            case Step():
                total = self.steps.setdefault(event.step, StepTotal(event.step, event.phase))
                total.add(event)
                peak = self.mem_peak_by_rank.get(event.rank, 0)
                self.mem_peak_by_rank[event.rank] = max(peak, event.mem_peak)
            case Hello():
                self.hellos[event.rank] = event
            case Bye():
                self.byes[event.rank] = event
            case Error():
                self.errors.append(event)
            case Warn():
                self.warnings.append(event)
            case Trace():
                self.traces.append(event)
            case Phase():
                self.phases[event.rank] = event
            case Data():
                self.data = event
            case Kernel():
                self.kernel = event
            case Gpu(throttled=reason) if reason:
                self.throttled.add(reason)
            case _:
                pass

    def complete(self, phase: str, world_size: int) -> list[StepTotal]:
        """Steps of one phase that every rank reported, in order."""
        totals = (self.steps[step] for step in sorted(self.steps))
        return [t for t in totals if t.phase == phase and t.num_ranks == world_size]


def observe(events: Iterable[Event]) -> Observed:
    """Fold all events."""
    observed = Observed()
    for event in events:
        observed.add(event)
    return observed
