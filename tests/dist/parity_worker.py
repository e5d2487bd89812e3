"""Loss and whole gradients of one optimizer step for every case, saved by rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.dist.cases import CASES, case_preset
from tgsbench.training.engines.base import Batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.model.build import plain_name
from tgsbench.training.attention.documents import documents
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.traffic import ALL_TO_ALL_COUNTER


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    results = {name: run_case(name) for name in CASES}
    if dist.get_rank() == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def run_case(name: str) -> dict[str, object]:
    preset = case_preset(name, dist.get_world_size())
    mesh = build_mesh("cpu", preset.parallel.sp)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    ALL_TO_ALL_COUNTER.take()
    batch, num_labels = make_batch(preset, mesh)
    loss = engine.forward_backward(batch, num_labels)
    calls, num_bytes = ALL_TO_ALL_COUNTER.take()
    grads = {name: grad.clone() for name, grad in engine.gradients()}
    dist.all_reduce(loss)
    return {"loss": loss / num_labels, "grads": grads, "a2a": torch.tensor([calls, num_bytes])}


def whole(grad: torch.Tensor) -> torch.Tensor:
    return grad.full_tensor() if isinstance(grad, DTensor) else grad


def make_batch(preset, mesh) -> tuple[Batch, int]:
    seq_len = preset.workload.seq_len
    generator = torch.Generator().manual_seed(7)
    rows = preset.training.micro_batch
    ids = torch.randint(0, preset.model.vocab_size, (rows, seq_len), generator=generator)
    bounds = torch.tensor([0, 5, seq_len // 3, seq_len // 2 + 3, seq_len])
    labels = torch.roll(ids, -1, dims=1)
    labels[:, -1] = -100
    labels[:, ::7] = -100
    position_ids = torch.arange(seq_len).expand(rows, -1)
    docs = None
    if preset.workload.document_mask:
        labels[:, bounds[1:] - 1] = -100
        position_ids = torch.cat([torch.arange(n) for n in bounds.diff().tolist()]).expand(rows, -1)
        ends = [bounds[:-1] + row * seq_len for row in range(rows)]
        docs = documents(torch.cat([*ends, torch.tensor([rows * seq_len])]), torch.device("cpu"))
    local = slice(mesh.sp_rank * seq_len // mesh.sp, (mesh.sp_rank + 1) * seq_len // mesh.sp)
    shard = Batch(ids[:, local], labels[:, local], position_ids[:, local], docs)
    return shard, int((labels != -100).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
