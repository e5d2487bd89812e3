"""How long `tgsbench runs` takes with 10,000 stored runs: `python -m benchmarks.runs_index`.

Three ways, in turns: with the index, after the index was deleted, and an empty folder (what the command
itself costs).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import pairs
from tests.unit.stored import store_run
from tgsbench import presets

BOUND_S = 0.5


class Taken(NamedTuple):
    """One command."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Make the runs, list them in turns, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tgsbench-index-") as folder:
        full, empty = Path(folder) / "full", Path(folder) / "empty"
        empty.mkdir()
        make(full, args.runs)
        measured = measure(full, empty, args.rounds)
    for name, times in measured.items():
        wall_s = statistics.median(t.wall_s for t in times)
        cpu_s = statistics.median(t.cpu_s for t in times)
        print(f"{name}: wall {wall_s:.3f} s, CPU {cpu_s:.3f} s (medians)")
    median_s = statistics.median(t.wall_s for t in measured["index"])
    verdict = "within" if median_s <= BOUND_S else "ABOVE"
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{args.runs:,} runs listed in {median_s:.3f} s: {verdict} {BOUND_S} s; load {load}")
    cpus = {name: [t.cpu_s for t in times] for name, times in measured.items()}
    found = [
        pairs.ratio("CPU", "index", "no index", cpus["index"], cpus["no index"], "no bound"),
        pairs.ratio("CPU", "index", "empty", cpus["index"], cpus["empty"], f"{BOUND_S} s in all"),
    ]
    pairs.store(args.json, found)


def make(root: Path, count: int) -> None:
    """Write finished runs."""
    preset = presets.resolve("llama2_7b_32k").preset
    for i in range(count):
        store_run(root, f"20260101T{i:06d}-llama2_7b_32k-{i:04x}", preset, created_unix=float(i))


def measure(full: Path, empty: Path, rounds: int) -> dict[str, list[Taken]]:
    """Times of whole commands, process start included."""
    found: dict[str, list[Taken]] = {"index": [], "no index": [], "empty": []}
    list_runs(full)
    for _ in range(rounds):
        found["index"].append(list_runs(full))
        found["empty"].append(list_runs(empty))
        (full / ".index.json").unlink()
        found["no index"].append(list_runs(full))
    return found


def list_runs(root: Path) -> Taken:
    """One `tgsbench runs`; CPU seconds tell it apart from whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin_s = time.perf_counter()
    argv = [sys.executable, "-m", "tgsbench", "runs", "--output", str(root)]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    wall_s, after = time.perf_counter() - begin_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
