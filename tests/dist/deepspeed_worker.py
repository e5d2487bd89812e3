"""Loss and whole gradients of one optimizer step for every DeepSpeed case, each in processes of its own.

DeepSpeed's imports take 6 s, so they happen once and every rank of every case is a fork of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
import torch.distributed as dist
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.dist.deepspeed_cases import CASES, ds_preset
from tests.dist.parity_worker import make_batch
import tgsbench.training.engines.deepspeed.data
import tgsbench.training.engines.deepspeed.engine  # noqa: F401 - all that a rank needs is imported before the forks
from tgsbench.training.engines.build import build_engine
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.traffic import TRAFFIC, Sent


def main(out: Path) -> None:
    """Write one file for each case, or a .txt with the traceback."""
    forks = multiprocessing.get_context("fork")
    only = sys.argv[2:] or CASES
    for name in only:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            ranks = [
                forks.Process(target=_rank, args=(name, rank, case.world, Path(folder), out))
                for rank in range(case.world)
            ]
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join()


def _rank(name: str, rank: int, world: int, folder: Path, out: Path) -> None:
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
        outcome = run_case(name)
        if rank == 0:
            torch.save(outcome, out / f"{name}.pt")
        dist.barrier()
    except BaseException:
        (out / f"{name}.rank{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # DeepSpeed's destructors wait for each other


def run_case(name: str) -> dict[str, object]:
    """One optimizer step; the rows of a micro-step are the same on every dp group."""
    preset = ds_preset(name)
    mesh = build_mesh("cpu", preset.parallel.sp)
    notes: list[str] = []
    plain_sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    engine = build_engine(preset, mesh, torch.device("cpu"), notes.append)
    TRAFFIC.take()
    gathers = _count_position_gathers()
    batch, num_labels = make_batch(preset, mesh)
    num_labels *= mesh.dp * preset.accumulation
    loss = sum(engine.forward_backward(batch, num_labels) for _ in range(preset.accumulation))
    calls, num_bytes = TRAFFIC.take().get("ulysses", Sent())
    grads = {name: grad.clone() for name, grad in engine.gradients()}
    norm = engine.optimizer_step(1e-3)
    dist.all_reduce(loss)
    return {
        "loss": loss / num_labels,
        "grads": grads,
        "norm": norm,
        "a2a": torch.tensor([calls, num_bytes]),
        "position_gathers": len(gathers),
        "sdpa_is_untouched": ALL_ATTENTION_FUNCTIONS["sdpa"] is plain_sdpa,
        "inv_freq": engine.engine.module.model.rotary_emb.inv_freq,
        "notes": notes,
    }


def _count_position_gathers() -> list[int]:
    """Grows with every gather of an integer tensor, ours and DeepSpeed's: both end in torch's."""
    seen: list[int] = []
    gather = dist.all_gather

    def counted(tensor_list, tensor, *args, **kwargs):
        if not tensor.is_floating_point():
            seen.append(tensor.numel())
        return gather(tensor_list, tensor, *args, **kwargs)

    dist.all_gather = counted
    return seen


if __name__ == "__main__":
    main(Path(sys.argv[1]))
