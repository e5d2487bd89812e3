"""Writes the golden traces: two steps of a tiny model on two gloo ranks, spans on.

OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m tests.profiling.capture_golden tests/data/traces
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from tests.dist.cases import case_preset
from tests.dist.parity_worker import make_batch
from tgsbench.engines.fsdp2 import Fsdp2Engine
from tgsbench.parallel.mesh import build_mesh
from tgsbench.parallel.tracing import set_capturing


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    preset = case_preset("gqa-causal-full", dist.get_world_size())
    mesh = build_mesh("cpu", preset.parallel.sp)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    batch, num_labels = make_batch(preset, mesh)
    set_capturing(True)
    plan = schedule(wait=2, warmup=1, active=2, repeat=1)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, schedule=plan) as profiler:
        for _ in range(5):
            engine.forward_backward(batch, num_labels)
            engine.optimizer_step(1e-4)
            profiler.step()
    plain = folder / f".{dist.get_rank()}.json"
    profiler.export_chrome_trace(str(plain))
    text = re.sub(r'"traceName": "[^"]*"', '"traceName": "golden"', plain.read_text())
    plain.unlink()
    (folder / f"golden_{dist.get_rank():04d}.pt.trace.json.gz").write_bytes(gzip.compress(text.encode(), 9))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
