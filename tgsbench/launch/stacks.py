"""Asks the ranks of a stalled run where they stand, and collects the answers into the run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tgsbench.store.run_dir import RunDir, write_atomic
from tgsbench.system.lifetime import rank_named
from tgsbench.system.process import ProcessGroup

_PATIENCE_S = 5.0
_MAX_STACK = 1 << 20


def collect(run: RunDir, child: ProcessGroup) -> list[Path]:
    """Write stacks/rankNNNNN.txt for each rank of this machine; returns the files.

    A rank answers SIGUSR1 with its Python stacks in its log, and with its last collectives (NCCL's flight
    recorder) in stacks/rankNNNNN.collectives.json where they were recorded.
    """
    asked = dict(_ranks(child))
    sizes = {rank: _size(_log(run, rank)) for rank in asked}
    for process in asked.values():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)
    _wait_for_answers(run, sizes)
    return [path for rank, size in sizes.items() if (path := _store(run, rank, size)) is not None]


def _ranks(child: ProcessGroup) -> Iterator[tuple[int, psutil.Process]]:
    """The agent's own children that call themselves ranks; theirs would die of the signal."""
    for process in child.family():
        with contextlib.suppress(psutil.Error):
            rank = rank_named(process.name())
            if process.ppid() == child.pid and rank is not None:
                yield rank, process


def _wait_for_answers(run: RunDir, sizes: Mapping[int, int]) -> None:
    """Until every log has grown and none grows any more, or patience ends."""
    deadline_s = time.monotonic() + _PATIENCE_S
    before: dict[int, int] = {}
    while time.monotonic() < deadline_s:
        now = {rank: _size(_log(run, rank)) for rank in sizes}
        if now == before and all(now[rank] > size for rank, size in sizes.items()):
            return
        before = now
        time.sleep(0.3)


def _store(run: RunDir, rank: int, offset: int) -> Path | None:
    target = run.stacks_dir / f"rank{rank:05d}.txt"
    try:
        with _log(run, rank).open("rb") as log:
            log.seek(offset)
            text = log.read(_MAX_STACK)
        if not text:
            return None
        run.stacks_dir.mkdir(exist_ok=True)
        write_atomic(target, text)
    except OSError:
        return None
    return target


def _log(run: RunDir, rank: int) -> Path:
    return run.log_dir / f"rank{rank:05d}.log"


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0
