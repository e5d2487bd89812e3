"""From the command to the first training step, over the same of another checkout.

`python -m benchmarks.first_step OTHER_PYTHON [--pairs N] [--json OUT]`; alternates `tgsbench run --preset
tiny_cpu --headless` of both: seconds, and processor seconds of launcher, agent and busiest rank one after the
other, which other work on the machine hardly changes, and of all processes: what the cores had to do.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.pairs import ratio, store

FIGURES = ("wall", "processor", "processor, all ranks")


class Start(NamedTuple):
    """What a run took until its first step was done."""

    wall_s: float
    path_s: float
    all_s: float


def main() -> None:
    """Start both in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path, help="interpreter of the other checkout's environment")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pairs = [(first_step(sys.executable), first_step(str(args.other))) for _ in range(args.pairs)]
    own, other = zip(*pairs, strict=True)
    found = [
        ratio(f"first step, {what}", "this", "other", a, b, "to reach: <= 0.6")
        for what, a, b in zip(
            ("wall", "processor", "all processors"),
            zip(*own, strict=True),
            zip(*other, strict=True),
            strict=True,
        )
    ]
    store(args.json, found)


def first_step(python: str) -> Start:
    """Start a run, wait for rank 0's first step, end the run; raises RuntimeError when there is none."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [python, "-P", "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--headless"]
        begin_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        process = subprocess.Popen(
            [*argv, "--output", folder, "--name", "start"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            end_s = next(_steps(process, Path(folder) / "start" / "events" / "rank00000.jsonl"))
            return Start(end_s - begin_s, *_processor_s(psutil.Process(process.pid)))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _steps(process: subprocess.Popen[bytes], path: Path) -> Iterator[float]:
    """When each step's event was written, on the monotonic clock."""
    while process.poll() is None:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        yield from (json.loads(line)["t"] for line in lines if b'"type":"step"' in line)
        time.sleep(0.1)
    raise RuntimeError(f"no step: the run ended with {process.returncode}")


def _processor_s(launcher: psutil.Process) -> tuple[float, float]:
    """Processor seconds of launcher, agent and the busiest rank, and of all ranks with them."""
    (agent,) = launcher.children()
    before, ranks = _used_s(launcher) + _used_s(agent), [_used_s(rank) for rank in agent.children()]
    return before + max(ranks), before + sum(ranks)


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
