"""A training step in outline on gloo: sleeps for work, real collectives, one rank slower in one part.

torchrun --nproc-per-node N waits_worker.py FOLDER SP SLOW_RANK PART DELAY_S STEPS
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.waits import COLLECTIVE_CLOCK

ACCUMULATION = 2


def main(folder: Path, sp: int, slow: int, part: str, delay_s: float, steps: int) -> None:
    dist.init_process_group("gloo")
    mesh, rank = build_mesh("cpu", sp), dist.get_rank()
    fsdp = mesh.fsdp.get_group()
    COLLECTIVE_CLOCK.install(torch.device("cpu"), {"sp": mesh.sp_group, "fsdp": fsdp})
    shard, whole = torch.ones(64), torch.ones(64 * mesh.world)
    exchanged = torch.ones(64 * sp)

    def work(name: str, seconds: float) -> None:
        is_slow = rank == slow and name == part
        time.sleep(seconds + (delay_s / (1 if name == "optimizer" else ACCUMULATION) if is_slow else 0.0))

    with (folder / f"rank{rank}.jsonl").open("wb") as out:
        for step in range(steps):
            COLLECTIVE_CLOCK.begin_step(step)
            began = time.perf_counter()
            for _ in range(ACCUMULATION):
                work("data", 0.01)
                dist.all_gather_into_tensor(whole, shard, group=fsdp)
                work("forward", 0.03)
                dist.all_to_all_single(torch.empty_like(exchanged), exchanged, group=mesh.sp_group)
                work("backward", 0.05)
                handle = dist.reduce_scatter_tensor(shard, whole, group=fsdp, async_op=True)
                handle.wait()
            work("optimizer", 0.01)
            dist.all_reduce(shard)
            found = COLLECTIVE_CLOCK.end_step(step, time.perf_counter() - began)
            found.rank = rank
            out.write(msgspec.json.encode(found) + b"\n")
    dist.barrier()
    # A normal exit would run destructors of groups whose peers are gone, which end some processes by SIGABRT.
    os._exit(0)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        *(kind(word) for kind, word in zip((int, int, str, float, int), sys.argv[2:], strict=True)),
    )
