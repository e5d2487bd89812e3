"""One rank on this machine's GPU, driven step by step; shared by the sections of `gpu_check`."""

from __future__ import annotations

import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from tgsbench import presets
from tgsbench.engines.fsdp2 import Fsdp2Engine
from tgsbench.errors import TgsError
from tgsbench.metrics.emulation import emulation
from tgsbench.metrics.result import step_tgs
from tgsbench.models.flops import tflops_by_convention
from tgsbench.parallel.kernel_timing import cuda_seconds
from tgsbench.parallel.mesh import build_mesh
from tgsbench.planner.plan import predict
from tgsbench.presets.catalog import find_gpu, load_references
from tgsbench.schema.events import Depth
from tgsbench.schema.preset import Preset
from tgsbench.trainer.device import device_name, synchronised_clock
from tgsbench.trainer.emulate import EmulatedRank, choose_depths, fake_mesh, make_batch
from tgsbench.units import GIB


def device_of(tiny: bool) -> torch.device:
    """The GPU, or for tiny sizes the CPU."""
    return torch.device("cpu") if tiny else torch.device("cuda", 0)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds by CUDA events, or by the clock on a CPU."""
    if device.type == "cuda":
        return cuda_seconds(work)
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


@contextmanager
def single_rank_group(preset: Preset) -> Iterator[None]:
    """A real process group of one rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cuda = preset.hardware.device == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", 0) if cuda else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass
class Measured:
    """One preset on one GPU."""

    preset: str
    checkpointing: str
    kernel: str
    kernel_reason: str
    step_s: list[float]
    tgs: float
    model_tflops: float
    mfu: float | None
    loss: float
    peak_gib: float
    reserved_gib: float
    planned_gib: float | None
    shares: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


class Rank:
    """A preset's only rank with one batch that it trains on again and again."""

    def __init__(self, preset: Preset) -> None:
        assert preset.world_size == 1
        self.preset = preset
        self.device = device_of(preset.hardware.device == "cpu")
        mesh = build_mesh(self.device.type, 1)
        self.batch, self.num_labels = make_batch(preset, mesh, self.device, lambda note: None)
        self.engine = Fsdp2Engine(preset, mesh, self.device)

    def step(self) -> float:
        """One optimizer step of one micro-step; returns the mean loss."""
        loss = self.engine.forward_backward(self.batch, self.num_labels)
        self.engine.optimizer_step(self.preset.training.lr)
        return float(loss) / self.num_labels

    def timed(self) -> float:
        """Seconds of a step."""
        begin_s = synchronised_clock(self.device)
        self.step()
        return synchronised_clock(self.device) - begin_s

    def measure(self, steps: int, warmup: int, profile: bool) -> Measured:
        """Warm up, time steps, read the peak, and look at one more step with the profiler."""
        for _ in range(warmup):
            loss = self.step()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        times_s = [self.timed() for _ in range(steps)]
        peak, reserved = _peak(self.device)
        preset, kernel = self.preset, self.engine.kernel
        tgs = step_tgs(preset.workload.seq_len, 1, statistics.median(times_s)) or 0.0
        seen = self.batch.documents.attended_len if self.batch.documents else preset.workload.seq_len
        tflops = tflops_by_convention(preset.model, seen, preset.training.checkpointing, tgs)["model"]
        gpu = find_gpu(device_name(self.device))
        return Measured(
            preset.name,
            preset.training.checkpointing,
            f"{kernel.name} {kernel.version}",
            kernel.reason,
            times_s,
            tgs,
            tflops,
            tflops / gpu.bf16_tflops if gpu else None,
            loss,
            peak / GIB,
            reserved / GIB,
            ((forecast(preset) or {}).get("memory") or {}).get("tensors_gib"),
            shares(self.step, self.device) if profile else {},
        )


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def forecast(preset: Preset) -> dict[str, Any] | None:
    """The planner's figures for this GPU; None for hardware that it does not know."""
    gpu = find_gpu(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    with suppress(TgsError):
        plan: dict[str, Any] = msgspec.to_builtins(predict(preset, gpu.name if gpu else ""))
        return plan
    return None


_KINDS = (
    ("attention", re.compile(r"flash|fmha|sdpa|attention|attn", re.I)),
    ("gemm", re.compile(r"gemm|nvjet|cutlass|xmma|splitk|aten::(mm|addmm|bmm)", re.I)),
    ("communication", re.compile(r"nccl|c10d|gloo", re.I)),
    ("optimizer", re.compile(r"multi_tensor|adam", re.I)),
    ("copy", re.compile(r"memcpy|memset|copy|CatArray", re.I)),
)


def shares(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of a step's kernel time by kind; `idle` is what no kernel fills (CUDA)."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    begin_s = synchronised_clock(device)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        window_s = synchronised_clock(device) - begin_s
    found: dict[str, float] = {}
    for item in profile.key_averages():
        spent_us = item.self_device_time_total if device.type == "cuda" else item.self_cpu_time_total
        kind = next((name for name, pattern in _KINDS if pattern.search(item.key)), "elementwise")
        found[kind] = found.get(kind, 0.0) + spent_us / 1e6 / window_s
    found["idle"] = max(0.0, 1 - sum(found.values()))
    return {name: round(share, 4) for name, share in sorted(found.items(), key=lambda p: -p[1])}


def emulated_row(preset: Preset, built: int, repeats: int, tiny: bool) -> dict[str, Any]:
    """One rank of a preset's mesh at two depths, and the published row scaled to this GPU by the planner."""
    device = device_of(tiny)
    mesh = fake_mesh(preset, device)
    try:
        batch, labels = make_batch(preset, mesh, device, lambda note: None)
        rank = EmulatedRank(preset, mesh, batch, labels, choose_depths(preset.model.num_layers, built))
        events: list[Depth] = list(rank.repetitions(1, repeats))
    finally:
        dist.destroy_process_group()
    projected = emulation(
        preset, events, forecast(preset), device_name(device), float(preset.workload.seq_len)
    )
    return {
        "preset": preset.name,
        "kernel": rank.engine.kernel.name,
        "emulated": msgspec.to_builtins(projected),
        "published": _scaled(preset),
    }


def _scaled(preset: Preset) -> dict[str, Any] | None:
    """XTuner's TGS, and times what the planner says this GPU is faster than the row's at XTuner's work."""
    rows = load_references().get(preset.name, [])
    here = forecast(preset)
    if not rows or rows[0].tgs is None or here is None:
        return None
    with suppress(TgsError, KeyError, TypeError):
        there = msgspec.to_builtins(predict(presets.resolve(preset.name).preset))
        factor = here["tgs"]["predicted"] / there["tgs"]["predicted"]
        return {"tgs": rows[0].tgs, "gpu": rows[0].gpu, "factor": factor, "scaled_tgs": rows[0].tgs * factor}
    return {"tgs": rows[0].tgs, "gpu": rows[0].gpu}
