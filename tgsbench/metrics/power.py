"""Power that the driver reported during measured steps, from samples between one step and the next."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_WATTS = 1e5
"""A sample beyond is no GPU's."""


@dataclass
class PowerLog:
    """Watts of one GPU, the mean over ranks' samples that fell into measured steps."""

    _pending: dict[int, tuple[float, int]] = field(default_factory=dict)
    _watts: float = 0.0
    _samples: int = 0

    def add(self, rank: int, watts: float) -> None:
        """Take one sample; 0 is a driver that does not say."""
        if 0 < watts < MAX_WATTS:
            total, count = self._pending.get(rank, (0.0, 0))
            self._pending[rank] = (total + watts, count + 1)

    def end_step(self, rank: int, *, measured: bool) -> None:
        """The rank's step is over: its samples count if it was measured."""
        total, count = self._pending.pop(rank, (0.0, 0))
        if measured:
            self._watts, self._samples = self._watts + total, self._samples + count

    @property
    def mean_w(self) -> float | None:
        """Mean watts of a GPU in measured steps; None: no sample fell into one."""
        return self._watts / self._samples if self._samples else None
