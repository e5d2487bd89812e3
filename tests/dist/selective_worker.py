"""Counts ops that really ran in one micro-step under each checkpointing mode."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from tests.dist.cases import case_preset
from tests.dist.parity_worker import make_batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.traffic import TRAFFIC


class Calls(TorchDispatchMode):
    """Counts ops that run: entered outside the checkpoint's own mode, it sees no op served from its cache."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def counts(mode: str) -> dict[str, int]:
    preset = case_preset(f"gqa-causal-{mode}", dist.get_world_size())
    mesh = build_mesh("cpu", preset.parallel.sp)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    TRAFFIC.take()
    with Calls() as ran:
        engine.forward_backward(*make_batch(preset, mesh))
    return {
        "attention": ran.names["aten::_scaled_dot_product_flash_attention_for_cpu"],
        "all_to_all": TRAFFIC.take()["ulysses"].calls,
        "linear": ran.names["aten::mm"],
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = {mode: counts(mode) for mode in ("none", "selective", "full")}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()
