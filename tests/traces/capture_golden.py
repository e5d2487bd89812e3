"""Writes the golden traces: two steps of a tiny model on two gloo ranks, spans on.

OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m tests.traces.capture_golden tests/data/traces

With --modules one step, with allocations and module calls; Python's other calls are left out (1 MB of file
names): ... tests/data/traces_modules --modules
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from tests.dist.cases import case_preset
from tests.dist.parity_worker import make_batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.tracing import set_capturing


def only_modules(text: str) -> str:
    """Of Python's calls those of modules, each under the nearest module that called it."""
    document = json.loads(text)
    calls = [event for event in document["traceEvents"] if event.get("cat") == "python_function"]
    parents = {call["args"]["Python id"]: call["args"]["Python parent id"] for call in calls}
    modules = {call["args"]["Python id"] for call in calls if "Python module id" in call["args"]}

    def is_kept(event: dict[str, Any]) -> bool:
        return event.get("cat") != "python_function" or event["args"]["Python id"] in modules

    document["traceEvents"] = [event for event in document["traceEvents"] if is_kept(event)]
    for call in document["traceEvents"]:
        if call.get("cat") == "python_function":
            above = call["args"]["Python parent id"]
            while above is not None and above not in modules:
                above = parents.get(above)
            call["args"]["Python parent id"] = above
    return json.dumps(document)


def main(folder: Path, with_modules: bool) -> None:
    dist.init_process_group("gloo")
    preset = case_preset("gqa-causal-full", dist.get_world_size())
    mesh = build_mesh("cpu", preset.parallel.sp)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    batch, num_labels = make_batch(preset, mesh)
    set_capturing(True)
    num_steps = 1 if with_modules else 2
    plan = schedule(wait=2, warmup=1, active=num_steps, repeat=1)
    with profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, schedule=plan,
        with_stack=with_modules, profile_memory=with_modules,
    ) as profiler:  # fmt: skip
        for _ in range(3 + num_steps):
            engine.forward_backward(batch, num_labels)
            engine.optimizer_step(1e-4)
            profiler.step()
    plain = folder / f".{dist.get_rank()}.json"
    profiler.export_chrome_trace(str(plain))
    text = re.sub(r'"traceName": "[^"]*"', '"traceName": "golden"', plain.read_text())
    text = only_modules(text) if with_modules else text
    plain.unlink()
    (folder / f"golden_{dist.get_rank():04d}.pt.trace.json.gz").write_bytes(gzip.compress(text.encode(), 9))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--modules" in sys.argv)
