"""One rank of test_gloo_sums: sums and means of parts, as torch has them and by exchange.

torchrun --nproc-per-node N gloo_sums_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from tgsbench.schema import spans
from tgsbench.training.observers import ReductionMeter
from tgsbench.training.parallel.gloo_sums import reduce_scatter_by_exchange
from tgsbench.training.parallel.traffic import TRAFFIC

OPS = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.AVG, "largest": dist.ReduceOp.MAX}
ROWS = 64


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    sent = torch.randn(size * ROWS, 2, generator=torch.Generator().manual_seed(rank))
    before = {name: scattered(sent, op) for name, op in OPS.items()}
    reduce_scatter_by_exchange()
    reduce_scatter_by_exchange()  # once is enough
    meter = ReductionMeter()
    TRAFFIC.take()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        with record_function("ProfilerStep#1"):
            after = {name: scattered(sent, op) for name, op in OPS.items()}
    seen.export_chrome_trace(str(folder / f"rank{rank}.pt.trace.json"))
    off = {name: float((before[name] - after[name]).abs().max()) for name in OPS}
    found = {"off": off, "counted": TRAFFIC.take(), "types": sorted(meter.types)}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def scattered(sent: torch.Tensor, op: dist.ReduceOp) -> torch.Tensor:
    """This rank's part, reduced over all ranks."""
    own = torch.empty(ROWS, 2)
    with record_function(spans.SHARD_SCATTER):
        dist.reduce_scatter_single(own, sent, op=op)
    return own


if __name__ == "__main__":
    main(Path(sys.argv[1]))
