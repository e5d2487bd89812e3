"""One step on eight ranks with keys and values in two hops and straight; rank 0 saves how far they are apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.dist.parity_worker import one_step
from tgsbench import presets
from tgsbench.training.parallel.mesh import mesh_of


def apart(kv_heads: int, node: int) -> dict[str, object]:
    """Largest relative difference of loss and gradients, and what the first hop's groups are."""
    sets = [
        "hardware.num_gpus=8", f"hardware.gpus_per_node={node}", "parallel.sp=8", "workload.seq_len=128",
        "model.num_query_heads=8", f"model.num_kv_heads={kv_heads}", "model.hidden_size=64",
        "model.head_dim=8", "training.checkpointing=full", "training.accumulation=1",
    ]  # fmt: skip
    by_hops = [presets.resolve("tiny_cpu", [*sets, f"engine.kv_hops={hops}"]).preset for hops in (2, 1)]
    groups = mesh_of(by_hops[0], "cpu").kv_hops
    assert groups is not None
    two, one = map(one_step, by_hops)
    pairs = [(two["loss"], one["loss"])] + [(two["grads"][name], grad) for name, grad in one["grads"].items()]
    return {
        "apart": max(float((a - b).norm() / b.norm()) for a, b in pairs),
        "between": dist.get_process_group_ranks(groups.between),
        "inside": dist.get_process_group_ranks(groups.inside),
        "hops": two["sent"]["kv_hops"],
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = {f"{kv_heads} on nodes of {node}": apart(kv_heads, node) for kv_heads, node in ((4, 4), (2, 2))}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()
