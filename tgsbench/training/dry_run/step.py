"""Run one rank's step of a preset on fake tensors: what it computes, sends and holds."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from msgspec.structs import replace
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.registry import find_family
from tgsbench.schema.dry_run import DryRun, LiveBlock, Traffic
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.fsdp2 import ENGINE
from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.attention.kernels import AttentionKernel
from tgsbench.training.dry_run.stream import Block, OperatorStream, StreamPhase, watch_resizes
from tgsbench.training.engines.base import Batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.model import fused_layers
from tgsbench.training.model.whole_layer import WholeLayer
from tgsbench.training.parallel.mesh import mesh_of
from tgsbench.training.parallel.offload import OffloadedCheckpoint

_TOP = 24


def dry_run(preset: Preset) -> DryRun:
    """Run a steady-state micro-step and optimizer step of rank 0; nothing is computed or sent.

    One micro-step and one optimizer step come first, so that gradients (where accumulation keeps them)
    and optimizer states are there. Experts that are shared out get their tokens in turn: where a router
    sends them is known to no fake tensor. Raises TgsError for an engine other than fsdp2.
    """
    _refuse(preset)
    if preset.parallel.ep > 1:
        preset = replace(preset, training=replace(preset.training, routing="uniform"))
    begin_s = time.perf_counter()
    dist.init_process_group("fake", rank=0, world_size=preset.world_size, store=FakeStore())
    try:
        mesh = mesh_of(preset, "cpu")
        # After the mesh: its construction reads real tensors.
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        stream = OperatorStream(fake)
        with fake, watch_resizes(stream), stream, _norms_of_cuda():
            engine = Fsdp2Engine(_with_cpu_kernel(preset), mesh, torch.device("cpu"))
            engine.attention.kernel = AttentionKernel("flash", str(torch.__version__), _flash)
            _stand_for_cuda(engine, stream)
            micro, optimizer = _steady(engine, preset, stream)
            result = _result(preset, engine, micro, optimizer)
    finally:
        dist.destroy_process_group()
    result.wall_s = time.perf_counter() - begin_s
    return result


def _refuse(preset: Preset) -> None:
    if preset.engine.name != ENGINE.name:
        raise TgsError(
            f"--trace runs the {ENGINE.name} engine only, not {preset.engine.name!r}",
            hint=f"add --set engine.name={ENGINE.name}",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if untrained := find_family(preset.model.family).untrained:
        raise TgsError(
            f"--trace runs a step of what ranks train, which {preset.model.name} is not: {untrained}",
            hint="leave --trace out: the plan itself counts it",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.model.window or preset.model.mtp_layers:
        raise TgsError(
            f"--trace runs attention over everything before: {preset.model.name} has layers of another kind",
            hint="leave --trace out: the plan itself counts them",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if sharing := replace(preset, parallel=replace(preset.parallel, ep=1)).sharing:
        raise TgsError(
            f"--trace runs all-to-alls and one copy under ZeRO-3, not {sharing}",
            hint="leave --trace out: the plan itself counts them, and --virtual-gpu runs them",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.linear:
        raise TgsError(
            f"--trace runs products in the compute dtype, not {preset.linear}",
            hint="leave --trace out: the plan itself counts them, and --virtual-gpu runs them",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.engine.offload != "none":
        raise TgsError(
            f"--trace tells no host from a GPU in the optimizer: engine.offload={preset.engine.offload}",
            hint="add --set engine.offload=none, or leave --trace out: the plan itself counts it",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.workload.document_mask:
        raise TgsError(
            "--trace has no documents to mask by: it runs no data",
            hint="add --set workload.document_mask=false",
            exit_code=ExitCode.UNSUPPORTED,
        )


def _with_cpu_kernel(preset: Preset) -> Preset:
    """The same preset with the one kernel that a CPU build can construct; it is replaced before use."""
    return replace(preset, engine=replace(preset.engine, kernel="sdpa"))


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, _docs: PackDocuments | None) -> Tensor:
    """The operator that SDPA runs on a GPU: flash attention with grouped KV heads, output and LSE saved."""
    heads = (x.transpose(1, 2) for x in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_flash_attention(*heads, 0.0, True, False, scale=scale)
    attended: Tensor = out[0]
    return attended.transpose(1, 2)


def _stand_for_cuda(engine: Fsdp2Engine, stream: OperatorStream) -> None:
    """Host buffers that are not counted as the GPU's."""
    for module in engine.model.modules():
        if isinstance(module, (OffloadedCheckpoint, WholeLayer)) and module.stash is not None:
            module.stash.on_host = stream.on_host


@contextlib.contextmanager
def _norms_of_cuda() -> Iterator[None]:
    """Norms as CUDA runs them: one kernel a pass, no fp32 copy of the input, 1/rms kept in fp32."""
    own = fused_layers.norm_forward, fused_layers.norm_backward

    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return x.clone(), x.new_empty(x.shape[:-1], dtype=torch.float32)

    def backward(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return grad.clone(), torch.empty_like(weight)

    fused_layers.norm_forward, fused_layers.norm_backward = forward, backward
    try:
        yield
    finally:
        fused_layers.norm_forward, fused_layers.norm_backward = own


def _steady(engine: Fsdp2Engine, preset: Preset, stream: OperatorStream) -> tuple[StreamPhase, StreamPhase]:
    """The second micro-step, with what the first optimizer step leaves behind, and the second one."""
    batch = _batch(preset)
    engine.forward_backward(batch, 1)
    if preset.accumulation > 1:
        engine.optimizer.step()  # states appear, gradients stay
    else:
        engine.optimizer_step(0.0)
    micro = stream.begin()
    engine.forward_backward(batch, 1)
    optimizer = stream.begin()
    engine.optimizer_step(0.0)
    return micro, optimizer


def _batch(preset: Preset) -> Batch:
    shape = (preset.training.micro_batch, preset.local_seq_len)
    ids, labels, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    return Batch(ids, labels, positions, None)


def _result(preset: Preset, engine: Fsdp2Engine, micro: StreamPhase, optimizer: StreamPhase) -> DryRun:
    """The optimizer step's memory is not watched: DTensor makes fake tensors of global shapes there.

    What it holds, parameters, gradients and states, is in the micro-step too.
    """
    resident = {
        "parameters": _storages(engine.model.parameters()),
        "optimizer": _storages(s for state in engine.optimizer.state.values() for s in state.values()),
    }
    return DryRun(
        preset=preset.name,
        world_size=preset.world_size,
        sp=preset.parallel.sp,
        flops=dict(micro.flops),
        collectives=_traffic(micro),
        optimizer_collectives=_traffic(optimizer),
        num_ops=micro.num_ops,
        moved_bytes=dict(micro.moved.most_common(_TOP)),
        peak_bytes=micro.peak_bytes,
        peak_op=micro.peak_op,
        at_peak=_grouped(micro.at_peak, resident),
        largest=_largest(micro.at_peak, _TOP),
        torch=str(torch.__version__),
    )


def _traffic(phase: StreamPhase) -> dict[str, Traffic]:
    return {
        name: Traffic(calls=c.calls, num_bytes=c.num_bytes) for name, c in sorted(phase.collectives.items())
    }


def _storages(tensors: Iterable[Any]) -> set[int]:
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors if isinstance(t, Tensor))
    return {t.untyped_storage()._cdata for t in local}


def _grouped(at_peak: dict[int, Block], resident: dict[str, set[int]]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for key, block in at_peak.items():
        group = next(
            (name for name, keys in resident.items() if key in keys), "gradients_activations_buffers"
        )
        sizes[group] += block.num_bytes
    return dict(sizes)


def _largest(at_peak: dict[int, Block], top: int) -> list[LiveBlock]:
    """Live tensors at the peak, those of one operator and shape together."""
    groups: dict[tuple[str, tuple[int, ...]], list[Block]] = {}
    for block in at_peak.values():
        groups.setdefault((block.op, block.shape), []).append(block)
    size: Callable[[list[Block]], int] = lambda blocks: sum(b.num_bytes for b in blocks)  # noqa: E731
    ordered = sorted(groups.items(), key=lambda item: -size(item[1]))[:top]
    return [
        LiveBlock(op=op, shape=list(shape), count=len(blocks), num_bytes=size(blocks))
        for (op, shape), blocks in ordered
        if size(blocks)
    ]
