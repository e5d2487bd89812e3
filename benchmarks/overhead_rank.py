"""One rank of benchmarks/overhead.py: blocks of steps, alternately observed and bare."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from tgsbench import presets
from tgsbench.events.emitter import Emitter
from tgsbench.training.engines.batches import Batches
from tgsbench.training.engines.build import build_engine
from tgsbench.training.heartbeat import HeartbeatThread
from tgsbench.training.loop import Stepper
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.rank_log import RankLog
from tgsbench.training.witness import Witness
from tgsbench.workload import prepare


def main(folder: Path, num_pairs: int, block: int) -> None:
    """Train and write the blocks' times."""
    dist.init_process_group("gloo")
    rank, device = dist.get_rank(), torch.device("cpu")
    preset = presets.resolve("tiny_cpu", ["workload.seq_len=512", "model.num_layers=2"]).preset
    mesh = build_mesh("cpu", preset.parallel.sp)
    num_steps = 2 * num_pairs * block + 4
    data = prepare(preset, preset.packs_per_step * 8, lambda _: None)
    batches = Batches(preset, mesh, data, device)
    engine = build_engine(preset, mesh, device, lambda _: None)
    stepper = Stepper(preset, engine, batches, num_steps, Witness(preset, mesh, data, engine))
    emitter, step, times = Emitter(folder / f"rank{rank:05d}.jsonl", rank), 0, []
    for _ in range(4):
        stepper.step(step, "warmup")
        step += 1
    for index in range(2 * num_pairs):
        observed = index % 2 == 0
        (folder / "live").touch() if observed else (folder / "live").unlink(missing_ok=True)
        dist.barrier()
        pulse = HeartbeatThread(emitter, 1.0, None, RankLog(folder, rank))
        if observed:
            pulse.start()
        begin_s = time.perf_counter()
        for _ in range(block):
            event = stepper.step(step, "measure")
            step += 1
            if observed:
                emitter.emit(event)
        times.append(time.perf_counter() - begin_s)
        if observed:
            pulse.stop()
    if rank == 0:
        (folder / "times.txt").write_text("\n".join(map(str, times)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
