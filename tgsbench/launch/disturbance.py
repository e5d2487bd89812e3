"""The supervisor's own event file: what it sees of the machine, which no rank can see of itself."""

from __future__ import annotations

import psutil

from tgsbench.events.emitter import Emitter
from tgsbench.schema.events import Warn
from tgsbench.schema.preset import Preset
from tgsbench.store.run_dir import RunDir, unwritable
from tgsbench.system.isolation import DisturbanceWatch
from tgsbench.system.process import ProcessGroup


class DisturbanceMonitor:
    """Writes events/nodeNNNNN.jsonl: foreign load and processes before and while the ranks measure."""

    def __init__(self, run: RunDir, preset: Preset, node_rank: int) -> None:
        try:
            # Ranks count from 0 up, nodes from -1 down.
            self._emitter = Emitter(run.events_dir / f"node{node_rank:05d}.jsonl", -1 - node_rank)
        except OSError as error:
            raise unwritable(run.events_dir, error) from error
        self._child: ProcessGroup | None = None
        self._isolation = DisturbanceWatch(self._family, preset.hardware.device == "cuda")
        self._tell(self._isolation.before())

    def watches(self, child: ProcessGroup) -> None:
        """Count the child's processes as the run's own from now on, not as foreign load."""
        self._child = child

    def tick(self, measuring: bool) -> None:
        """Look again if it is time."""
        self._tell(self._isolation.during(measuring))

    def close(self) -> None:
        """Sum up what disturbed the measurement."""
        self._tell(self._isolation.after())

    def _tell(self, warnings: list[Warn]) -> None:
        for warning in warnings:
            self._emitter.emit(warning)

    def _family(self) -> set[int]:
        """This process, those that started it (shells, the UI), and the ranks."""
        own = psutil.Process()
        family = {own.pid, *(parent.pid for parent in own.parents())}
        if self._child is not None:
            family |= {self._child.pid, *(process.pid for process in self._child.family())}
        return family
