"""Computation per layer: one emulated rank against a real run of two gloo ranks, A B A B in one run.

python -m benchmarks.emulated_rank [--rounds N] [--set KEY=VALUE …]

Both sides run the same class at the same depths. Computation is the main thread's CPU time (ranks have one
thread each), so that waiting for the peer in gloo does not count. On two cores that are one core's threads
each slows the other, so the emulated side keeps the second core as busy as a peer would: with a second
emulated rank whose figures are thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

DEFAULT = ["workload.corpus=lengths", "workload.seq_len=4096", "training.checkpointing=selective"]
REPEATS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--worker", choices=["emulated", "gloo"])
    args = parser.parse_args()
    if args.worker:
        work(args.worker, [*DEFAULT, *args.sets])
        return
    layers: dict[str, list[float]] = {"emulated": [], "gloo": []}
    for _ in range(args.rounds):
        for side, run in (("gloo", gloo), ("emulated", emulated)):
            layers[side].append(run(args.sets))
            print(f"{side:9} {layers[side][-1] * 1e3:7.2f} ms of CPU a layer", flush=True)
    ours, real = (statistics.median(layers[side]) for side in ("emulated", "gloo"))
    print(f"emulated / gloo = {ours / real:.3f} (to reach: 0.85 to 1.15)")


def emulated(sets: list[str]) -> float:
    jobs = [Job([sys.executable, *command("emulated", sets)]) for _ in range(2)]
    first, _ = (job.result() for job in jobs)
    return first


def gloo(sets: list[str]) -> float:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return Job([*torchrun, *command("gloo", sets)]).result()


def command(side: str, sets: list[str]) -> list[str]:
    return ["-m", "benchmarks.emulated_rank", "--worker", side, *(f"--set={s}" for s in sets)]


class Job:
    def __init__(self, argv: list[str]) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def result(self) -> float:
        out, err = self.process.communicate()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if not lines:
            raise SystemExit(err[-2000:])
        return float(json.loads(lines[0])["layer_s"])


def work(side: str, sets: list[str]) -> None:
    import torch
    import torch.distributed as dist

    from tgsbench import presets
    from tgsbench.metrics.emulation import fit
    from tgsbench.training import emulate
    from tgsbench.training.parallel.mesh import mesh_of

    torch.set_num_threads(1)
    device = torch.device("cpu")
    preset = presets.resolve("tiny_cpu", sets).preset
    if side == "gloo":
        dist.init_process_group("gloo")
        mesh = mesh_of(preset, "cpu")
    else:
        mesh = emulate.fake_mesh(preset, device)
    batch, labels = emulate.make_batch(preset, mesh, device, lambda note: None)
    depths = emulate.choose_depths(preset.model.num_layers)
    rank = emulate.EmulatedRank(preset, mesh, batch, labels, depths, lambda _: time.thread_time())
    times: dict[int, list[float]] = {}
    for event in rank.repetitions(2, REPEATS):
        times.setdefault(event.num_layers, []).append(event.micro_step_s)
    # The least of the repetitions: what others on this machine take is never negative.
    _, layer_s = fit([(depth, min(samples)) for depth, samples in times.items()])
    if dist.get_rank() == 0:
        print(json.dumps({"layer_s": layer_s, "times": times}), flush=True)


if __name__ == "__main__":
    main()
