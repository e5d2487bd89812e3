"""Loss and whole gradients of one optimizer step for every case, saved by rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.dist.cases import CASES, case_preset
from tgsbench.training.clipping import gradient_norm
from tgsbench.training.engines.base import Batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.attention.documents import documents
from tgsbench.training.parallel.mesh import mesh_of
from tgsbench.training.parallel.traffic import TRAFFIC, Sent
from tgsbench.workload.zigzag import layout_of


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    results = {name: run_case(name) for name in CASES}
    if dist.get_rank() == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def run_case(name: str) -> dict[str, object]:
    return one_step(case_preset(name, dist.get_world_size()))


def one_step(preset) -> dict[str, object]:
    """Mean loss, whole gradients by parameter, and calls and bytes of what this rank sent (experts: all)."""
    mesh = mesh_of(preset, "cpu")
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    batch, num_labels = make_batch(preset, mesh)
    times = preset.accumulation
    TRAFFIC.take()
    loss = sum(engine.forward_backward(batch, num_labels * times) for _ in range(times)) / times
    sent = TRAFFIC.take()
    grads = {name: grad.clone() for name, grad in engine.gradients()}
    dist.all_reduce(loss)
    of_all = torch.tensor(sent.get("experts", Sent()))
    dist.all_reduce(of_all)
    norm = gradient_norm((p.grad for p in engine.model.parameters() if p.grad is not None), mesh.experts)
    stepped = float(engine.optimizer_step(1e-3))
    weights = {key: weight.clone() for key, weight in engine.parameters()}
    return {
        "loss": loss / num_labels,
        "grads": grads,
        "sent": {kind: tuple(of_kind) for kind, of_kind in sent.items()} | {"experts": tuple(of_all.tolist())},
        "weights": weights,
        "norm": torch.tensor([float(norm), stepped]),
    }


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
    pieces = layout_of(preset).pieces(mesh.sp_rank)
    local = torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces])
    shard = Batch(ids[:, local], labels[:, local], position_ids[:, local], docs)
    return shard, int((labels != -100).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
