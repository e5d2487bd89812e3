"""Host time and launches of a micro-step on a virtual GPU: this tree and others in turn, in one run.

python -m benchmarks.virtual_gpu [--against TREE] [--peer plain] [--peer alst] [--preset NAME] [--gpu NAME]
    [--world N] [--sp N] [--rounds N] [--set KEY=V …]

Each side runs the preset as rank 0 of N in a process of its own (virtual_gpu_sides.py), with the tree first
on its path; peers checkpoint whole layers. Host time is processor time of forward and backward, of the
fastest micro-step of a process; launches are what the device wrote down in it. Needs `make virtual-gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent.parent


class Side(NamedTuple):
    """Whose step it is."""

    name: str
    tree: Path
    worker: str
    goals: tuple[float, float] = (1.0, 1.0)
    """Of its host time and launches ours may take so much."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="source tree of another version")
    parser.add_argument("--peer", action="append", default=[], choices=["plain", "alst"])
    parser.add_argument("--preset", default="llama3_1b_8k")
    parser.add_argument("--gpu", default="H100-SXM5-80GB")
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--sp", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    args = parser.parse_args()
    sides = [Side("this tree", HERE, "ours")]
    if args.against:
        sides.append(Side("other tree", args.against.resolve(), "ours", (0.5, 0.6)))
    sides += [Side(peer, HERE, peer) for peer in args.peer]
    mesh = [f"hardware.num_gpus={args.world}", f"parallel.sp={args.sp}"]
    found: dict[str, list[tuple[float, int]]] = {side.name: [] for side in sides}
    for _ in range(args.rounds):
        for side in sides:
            seconds, launches = one_side(side, args.preset, args.gpu, [*mesh, *args.sets])
            found[side.name].append((seconds, launches))
            text = f"{seconds:7.3f} s of host time, {launches:6,} launches a micro-step"
            print(f"{side.name:11} {text}", flush=True)
    middle = {
        name: [statistics.median(each) for each in zip(*rows, strict=True)] for name, rows in found.items()
    }
    print(f"load {os.getloadavg()[0]:.1f}; medians of {args.rounds}: {middle}")
    for side in sides[1:]:
        ratios = zip(middle["this tree"], middle[side.name], side.goals, strict=True)
        host, launches = (f"{mine / other:.3f} (to reach: {goal})" for mine, other, goal in ratios)
        print(f"of {side.name}: host time {host}, launches {launches}")


def one_side(side: Side, preset: str, gpu: str, sets: list[str]) -> tuple[float, int]:
    """Seconds of host time and launches of the fastest micro-step."""
    from tgsbench import api
    from tgsbench.virtual_gpu import installation, settings
    from tgsbench.virtual_gpu.account import CountedSteps, inside
    from tgsbench.virtual_gpu.clock import WORK
    from tgsbench.virtual_gpu.log import log_path, read_log

    found = installation.require()
    resolved = api.load_preset(preset, sets, virtual_gpu=gpu)
    virtual = settings.virtual_gpu(resolved, settings.find_virtual_gpu(gpu), "0")
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([str(side.tree), str(HERE)])
        base = {**os.environ, "PYTHONPATH": path, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        env = settings.device_environment(base, resolved, virtual, found, Path(folder)) | {"RANK": "0"}
        words = [found.python, str(HERE / "benchmarks" / "virtual_gpu_sides.py"), side.worker]
        words += ["--preset", preset]
        words += [word for each in [*sets, f"hardware.gpu={gpu}"] for word in ("--set", each)]
        done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        steps = json.loads(done.stdout.splitlines()[-1])
        records = list(read_log(log_path(Path(folder) / settings.LOG_FOLDER, 0)))
    seconds, begin_ns, end_ns = min(steps)
    return seconds, sum(record.kind in WORK for record in inside(records, CountedSteps(begin_ns, end_ns)))


if __name__ == "__main__":
    main()
