"""One rank of one side of benchmarks/virtual_gpu.py: `virtual_gpu_sides.py SIDE --preset NAME [--set …]`.

Sides: `ours`, the preset's fsdp2 engine of the tree that is first on the path; `plain`, LlamaForCausalLM with
SDPA, FSDP2 by layer, bf16 over fp32 weights, transformers' own checkpointing of every layer and fused AdamW,
as torch's tutorials write it (no sequence parallelism); `alst`, DeepSpeed's tutorial recipe of
benchmarks/alst_rank.py with every layer checkpointed. Prints processor seconds, begin and end of the forward
and backward of each micro-step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from msgspec.structs import replace

from tgsbench import presets

MICRO_STEPS = 4
_ID_BYTES, _NUM_GROUPS = 128, 32
"""Of an NCCL id, and process groups whose ids absent ranks would have left in the store."""

Work = tuple[Callable[[], object], Callable[[], object]]
"""Forward and backward of a micro-step, and the optimizer's step after it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    args = parser.parse_args()
    fixed = ["workload.corpus=lengths", "workload.concat=1", "training.accumulation=1"]
    preset = presets.resolve(args.preset, [*fixed, *args.sets]).preset
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    meet(preset.world_size, device)
    print(json.dumps(timed(*SIDES[args.side](preset, device))[1:]), flush=True)
    os._exit(0)


def meet(world: int, device: torch.device) -> None:
    """Be rank 0 of a world whose other ranks are not there."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # named, never used: the store is ours
    store = dist.HashStore()
    for group in range(_NUM_GROUPS):
        store.set(f"{group}//cuda//0", "\0" * _ID_BYTES)
    dist.init_process_group("nccl", store=store, rank=0, world_size=world, device_id=device)


def timed(micro_step: Callable[[], object], optimizer_step: Callable[[], object]) -> list[Any]:
    """Processor seconds, begin and end (ns) of each micro-step."""
    steps = []
    for _ in range(MICRO_STEPS):
        torch.cuda.synchronize()
        begin_s, begin_ns = time.process_time(), time.monotonic_ns()
        micro_step()
        steps.append((time.process_time() - begin_s, begin_ns, time.monotonic_ns()))
        optimizer_step()
    torch.cuda.synchronize()
    return steps


def ours(preset: Any, device: torch.device) -> Work:
    """The tree's own engine."""
    make_batch = room("tgsbench.training.emulate", "tgsbench.trainer.emulate").make_batch
    engine_of = room("tgsbench.training.engines.fsdp2", "tgsbench.engines.fsdp2").Fsdp2Engine
    build_mesh = room("tgsbench.training.parallel.mesh", "tgsbench.parallel.mesh").build_mesh
    mesh = build_mesh("cuda", preset.parallel.sp)
    batch, num_labels = make_batch(preset, mesh, device, lambda note: None)
    engine = engine_of(preset, mesh, device)
    return lambda: engine.forward_backward(batch, num_labels), lambda: engine.optimizer_step(1e-5)


def plain(preset: Any, device: torch.device) -> Work:
    """torch's own loop."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers import LlamaForCausalLM

    from tgsbench.training.model.build import decoder_config

    with device:
        model = LlamaForCausalLM(decoder_config(preset.model, preset.workload.seq_len, "sdpa"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.zeros(1, preset.workload.seq_len, dtype=torch.long, device=device)

    def optimizer_step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return lambda: model(input_ids=ids, labels=ids).loss.backward(), optimizer_step


def gather_own(received: list[torch.Tensor], sent: torch.Tensor, group: object = None) -> None:
    """Every rank sent what this one sends."""
    received[:] = [sent] * len(received)


def alst(preset: Any, device: torch.device) -> Work:
    """DeepSpeed's recipe; its batch is fetched outside the clock."""
    import deepspeed
    from deepspeed.runtime.sequence_parallel import ulysses_sp

    from benchmarks.alst_rank import Recipe

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # The loader asks for lengths, which kernels fill in that do not run: it made room for 0 tokens.
    ulysses_sp.dist.all_gather = gather_own
    full = replace(preset, training=replace(preset.training, checkpointing="full"))
    recipe = Recipe(full, device, torch_adam=True)
    batches = [recipe.batch() for _ in range(MICRO_STEPS)]
    return lambda: recipe.forward_backward(batches.pop()), recipe.optimizer_step


SIDES: dict[str, Callable[[Any, torch.device], Work]] = {"ours": ours, "plain": plain, "alst": alst}


def room(*names: str) -> ModuleType:
    """The first of these modules that the tree has: versions before 0.3 named their rooms otherwise."""
    for name in names[:-1]:
        with suppress(ModuleNotFoundError):
            return import_module(name)
    return import_module(names[-1])


if __name__ == "__main__":
    main()
