"""The trainer's step with events, heartbeat and a live reader, over the same step bare.

Two gloo ranks train tiny_cpu; blocks of steps alternate between both ways (A B A B …) in one process.
`python -m benchmarks.overhead [--json OUT]`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import ratio, store

ROOT = Path(__file__).resolve().parents[1]
NUM_PAIRS, BLOCK = 24, 4


def main() -> None:
    """Start the ranks and a reader, and print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), GLOO_SOCKET_IFNAME="lo")
        reader = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overhead_reader", folder], env=env, cwd=ROOT
        )
        argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        argv += [
            "--nproc-per-node",
            "2",
            "-m",
            "benchmarks.overhead_rank",
            folder,
            str(NUM_PAIRS),
            str(BLOCK),
        ]
        subprocess.run(argv, env=env, check=True, cwd=ROOT)
        reader.terminate()
        lines = (Path(folder) / "times.txt").read_text().split()
    times = [float(x) for x in lines]
    measured, bare = times[0::2], times[1::2]
    print(f"a block of {BLOCK} steps: {statistics.median(bare):.3f} s bare")
    store(
        args.json,
        [ratio("overhead", "events + live reading", "bare loop", measured, bare, "to reach: <= 1.01")],
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {time.monotonic() - started:.0f} s")
