"""Host time and launches of a micro-step on a virtual GPU: this tree and another in turn, in one run.

python -m benchmarks.virtual_gpu [--against TREE] [--preset NAME] [--gpu NAME] [--rounds N] [--set KEY=V …]

Each side runs the preset's fsdp2 engine as one rank in a process of its own, with the tree first on its path.
Host time is processor time of forward and backward, of the fastest micro-step of a process; launches are
what the device wrote down in it. Needs `make virtual-gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent.parent
MICRO_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="source tree of another version")
    parser.add_argument("--preset", default="llama3_1b_8k")
    parser.add_argument("--gpu", default="H100-SXM5-80GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--worker", action="store_true")
    args = parser.parse_args()
    if args.worker:
        work(args.preset, args.sets)
        return
    trees = {"this tree": HERE} | ({"other tree": args.against.resolve()} if args.against else {})
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in trees}
    for _ in range(args.rounds):
        for name, tree in trees.items():
            seconds, launches = one_side(tree, args.preset, args.gpu, args.sets)
            found[name].append((seconds, launches))
            print(f"{name:11} {seconds:7.3f} s of host time, {launches:6,} launches a micro-step", flush=True)
    middle = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    print(f"load {os.getloadavg()[0]:.1f}; medians {middle}")
    if args.against:
        ours, theirs = middle["this tree"], middle["other tree"]
        host, launches = (mine / other for mine, other in zip(ours, theirs, strict=True))
        print(f"host time {host:.3f} (to reach: 0.5), launches {launches:.3f} (to reach: 0.6)")


def one_side(tree: Path, preset: str, gpu: str, sets: list[str]) -> tuple[float, int]:
    """Seconds of host time and launches of the fastest micro-step."""
    from tgsbench import api
    from tgsbench.virtual_gpu import installation, settings
    from tgsbench.virtual_gpu.account import CountedSteps, inside
    from tgsbench.virtual_gpu.clock import WORK
    from tgsbench.virtual_gpu.log import log_path, read_log

    found = installation.require()
    resolved = api.load_preset(preset, [*sets, "hardware.num_gpus=1", "parallel.sp=1"], virtual_gpu=gpu)
    virtual = settings.virtual_gpu(resolved, settings.find_virtual_gpu(gpu), "0")
    with tempfile.TemporaryDirectory() as folder:
        base = {**os.environ, "PYTHONPATH": str(tree), "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        env = settings.device_environment(base, resolved, virtual, found, Path(folder)) | {"RANK": "0"}
        words = [found.python, str(Path(__file__).resolve()), "--worker", "--preset", preset]
        words += [word for each in [*sets, f"hardware.gpu={gpu}"] for word in ("--set", each)]
        done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        steps = json.loads(done.stdout.splitlines()[-1])
        records = list(read_log(log_path(Path(folder) / settings.LOG_FOLDER, 0)))
    seconds, begin_ns, end_ns = min(steps)
    return seconds, sum(record.kind in WORK for record in inside(records, CountedSteps(begin_ns, end_ns)))


def work(name: str, sets: list[str]) -> None:
    """One rank's micro-steps; prints processor seconds, begin and end of each."""
    import torch
    import torch.distributed as dist

    from tgsbench import presets

    make_batch = room("tgsbench.training.emulate", "tgsbench.trainer.emulate").make_batch
    engine_of = room("tgsbench.training.engines.fsdp2", "tgsbench.engines.fsdp2").Fsdp2Engine
    build_mesh = room("tgsbench.training.parallel.mesh", "tgsbench.parallel.mesh").build_mesh
    alone = ["hardware.num_gpus=1", "parallel.sp=1", "workload.corpus=lengths", "workload.concat=1"]
    preset = presets.resolve(name, [*alone, *sets]).preset
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=device)
    mesh = build_mesh("cuda", 1)
    batch, num_labels = make_batch(preset, mesh, device, lambda note: None)
    engine = engine_of(preset, mesh, device)
    steps = []
    for _ in range(MICRO_STEPS):
        torch.cuda.synchronize()
        begin_s, begin_ns = time.process_time(), time.monotonic_ns()
        engine.forward_backward(batch, num_labels)
        seconds, end_ns = time.process_time() - begin_s, time.monotonic_ns()
        engine.optimizer_step(1e-5)
        steps.append((seconds, begin_ns, end_ns))
    torch.cuda.synchronize()
    print(json.dumps(steps[1:]), flush=True)
    os._exit(0)


def room(*names: str) -> ModuleType:
    """The first of these modules that the tree has: versions before 0.3 named their rooms otherwise."""
    for name in names[:-1]:
        with suppress(ModuleNotFoundError):
            return import_module(name)
    return import_module(names[-1])


if __name__ == "__main__":
    main()
