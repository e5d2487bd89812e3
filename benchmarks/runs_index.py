"""How long `tgsbench runs` takes with 10,000 stored runs: `python -m benchmarks.runs_index`.

Three ways, in turns: with the index, after the index was deleted, and an empty folder (what the command
itself costs).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import pairs
from tests.unit.stored import store_run
from tgsbench import presets

BOUND_S = 0.5


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
    for name, times_s in measured.items():
        print(f"{name}: median {statistics.median(times_s):.3f} s, worst {max(times_s):.3f} s")
    verdict = "within" if statistics.median(measured["index"]) <= BOUND_S else "ABOVE"
    print(f"{args.runs:,} runs listed in {statistics.median(measured['index']):.3f} s: {verdict} {BOUND_S} s")
    found = [
        pairs.ratio("list", "index", "no index", measured["index"], measured["no index"], "no bound"),
        pairs.ratio("list", "index", "empty", measured["index"], measured["empty"], f"{BOUND_S} s in all"),
    ]
    pairs.store(args.json, found)


def make(root: Path, count: int) -> None:
    """Write finished runs."""
    preset = presets.resolve("llama2_7b_32k").preset
    for i in range(count):
        store_run(root, f"20260101T{i:06d}-llama2_7b_32k-{i:04x}", preset, created_unix=float(i))


def measure(full: Path, empty: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of whole commands, process start included."""
    found: dict[str, list[float]] = {"index": [], "no index": [], "empty": []}
    list_runs(full)
    for _ in range(rounds):
        found["index"].append(list_runs(full))
        found["empty"].append(list_runs(empty))
        (full / ".index.json").unlink()
        found["no index"].append(list_runs(full))
    return found


def list_runs(root: Path) -> float:
    """Seconds of one `tgsbench runs`."""
    begin_s = time.perf_counter()
    argv = [sys.executable, "-m", "tgsbench", "runs", "--output", str(root)]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin_s


if __name__ == "__main__":
    main()
