"""A thread that shows the rank is alive and where it is, samples its GPU and keeps its log short.

At most once a second.
"""

from __future__ import annotations

import threading

from tgsbench.events.emitter import Emitter
from tgsbench.system.gpus import GpuSampler
from tgsbench.training.progress import PROGRESS
from tgsbench.training.rank_log import RankLog


class HeartbeatThread:
    """Heartbeats (and GPU samples where NVML answers) until stopped; also while a collective blocks."""

    def __init__(
        self, emitter: Emitter, heartbeat_s: float, sampler: GpuSampler | None, log: RankLog
    ) -> None:
        self._emitter = emitter
        self._log = log
        self._interval_s = max(1.0, heartbeat_s)
        self._sampler = sampler
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End and wait for the thread, so that nothing follows the rank's `bye`."""
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._emitter.emit(PROGRESS.heartbeat())
            self._log.turn_if_full()
            sample = self._sampler.read() if self._sampler else None
            if sample is not None:
                self._emitter.emit(sample)
