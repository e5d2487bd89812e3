"""One optimizer step over all ranks: the one place that says what the ranks' reports add up to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import UNSET, Struct

from tgsbench.schema.events import Step

_MODULUS = 2**61 - 1
_MIN_STEP_S = 1e-9


class StepTotal(Struct, array_like=True, gc=False):
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
    """Largest rank, bytes; so are the next two."""
    mem_reserved: int = 0
    mem_alloc: int = 0
    pack_tokens: int = 0
    seen_checksum: int = 0
    pack_checksum: int = 0
    a2a_calls: int = 0
    a2a_bytes: int = 0
    ring_calls: int = 0
    ring_bytes: int = 0
    expert_calls: int = 0
    expert_bytes: int = 0
    hop_calls: int = 0
    hop_bytes: int = 0
    tells_shards: bool = False
    """Did a rank tell what it gathered? None did before this was counted."""
    gather_calls: int = 0
    gather_bytes: int = 0
    scatter_calls: int = 0
    scatter_bytes: int = 0
    copy_calls: int = 0
    copy_bytes: int = 0
    update: float | None = None
    """Largest that a rank saw of its weights' median change."""
    reported: int = 0
    """Bit r is set once rank r has reported: a step told twice counts once."""

    @classmethod
    def of_ranks(
        cls,
        step: int,
        phase: str,
        step_s: Sequence[float],
        mem_peak: Sequence[float],
        tokens: Sequence[float],
        labels: Sequence[float],
        loss_sum: Sequence[float],
    ) -> StepTotal:
        """What `add` makes of all ranks' reports, from their figures rank by rank; NaN: no report.

        Only figures that are passed are known: this is what a run that goes on is shown by.
        """
        if math.isnan(sum(step_s)):
            there = [rank for rank, seconds in enumerate(step_s) if seconds == seconds]
            figures = (step_s, mem_peak, tokens, labels, loss_sum)
            if not there:
                return cls(step, phase)
            return cls.of_ranks(step, phase, *([figure[rank] for rank in there] for figure in figures))
        return cls(
            step,
            phase,
            num_ranks=len(step_s),
            tokens=int(sum(tokens)),
            labels=int(sum(labels)),
            loss_sum=sum(loss_sum),
            step_s=max(step_s),
            mem_peak=int(max(mem_peak)),
        )

    def add(self, event: Step) -> bool:
        """Take one rank's report in; False, and nothing is added, for one that has reported before."""
        if self.reported >> event.rank & 1:
            return False
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
        self.ring_calls += event.ring_calls or 0
        self.ring_bytes += event.ring_bytes or 0
        self.expert_calls += event.expert_calls or 0
        self.expert_bytes += event.expert_bytes or 0
        self.hop_calls += event.hop_calls or 0
        self.hop_bytes += event.hop_bytes or 0
        self.tells_shards |= event.gather_calls is not UNSET
        self.gather_calls += event.gather_calls or 0
        self.gather_bytes += event.gather_bytes or 0
        self.scatter_calls += event.scatter_calls or 0
        self.scatter_bytes += event.scatter_bytes or 0
        self.copy_calls += event.copy_calls or 0
        self.copy_bytes += event.copy_bytes or 0
        if event.update is not None:
            self.update = max(self.update or 0.0, event.update)
        return True

    @property
    def loss(self) -> float | None:
        """Label-weighted mean loss."""
        return self.loss_sum / self.labels if self.labels else None
