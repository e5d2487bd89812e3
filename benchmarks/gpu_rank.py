"""One rank on this machine's GPU, driven step by step; shared by the sections of `gpu_check`."""

from __future__ import annotations

import gc
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.metrics import figures
from tgsbench.metrics.emulation import emulation
from tgsbench.planner.plan import forecast_preset
from tgsbench.presets.catalog import find_gpu, load_references
from tgsbench.schema.events import Depth, Step
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.recipe import Recipe
from tgsbench.traces.hotspots import analyse_rank
from tgsbench.training.attention.kernel_timing import cuda_seconds
from tgsbench.training.capture import capture
from tgsbench.training.device import device_name, synchronised_clock
from tgsbench.training.emulate import EmulatedRank, choose_depths, fake_mesh, make_batch
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.tracing import marking
from tgsbench.units import GIB

Json = dict[str, Any]
_LONG_STEP_S = 4.0
"""Steps that take longer are warmed up once, and timed as often as fits into _ROW_S, once at least."""
_ROW_S = 12.0
_SHARES = Recipe(name="shares", ranks="first", warmup_steps=0, active_steps=1)


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
    shares: Json = field(default_factory=dict)

    def as_json(self) -> Json:
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
        self.loss = float(loss) / self.num_labels
        return self.loss

    def timed(self) -> float:
        """Seconds of a step."""
        begin_s = synchronised_clock(self.device)
        self.step()
        return synchronised_clock(self.device) - begin_s

    def make_states(self) -> None:
        """Give the optimizer its states, as a first step would."""
        for parameter in self.engine.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.engine.optimizer_step(0.0)

    def warm_up(self, steps: int) -> None:
        """As many steps, but one of a long step."""
        if steps == 0:
            self.make_states()
        for _ in range(steps):
            if self.timed() > _LONG_STEP_S:
                return

    def times_s(self, steps: int) -> list[float]:
        """Seconds of each of as many steps, fewer if they are long."""
        found = [self.timed()]
        while len(found) < steps and sum(found) + found[-1] < _ROW_S:
            found.append(self.timed())
        return found

    def measure(self, steps: int, warmup: int, profile: bool) -> Measured:
        """Warm up, time steps, read the peak, and look at one more step with the profiler."""
        self.warm_up(warmup)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        times_s = self.times_s(steps)
        peak, reserved = _peak(self.device)
        preset, kernel = self.preset, self.engine.kernel
        tgs = figures.tgs(preset.workload.seq_len, 1, statistics.median(times_s)) or 0.0
        seen = self.batch.documents.attended_len if self.batch.documents else preset.workload.seq_len
        tflops = figures.tflops_in("model", preset.model, seen, preset.training.checkpointing, tgs)
        return Measured(
            preset.name,
            preset.training.checkpointing,
            f"{kernel.name} {kernel.version}",
            kernel.reason,
            times_s,
            tgs,
            tflops,
            figures.mfu(tflops, find_gpu(device_name(self.device))),
            self.loss,
            peak / GIB,
            reserved / GIB,
            _planned_gib(preset),
            attempt(self.shares) if profile else {},
        )

    def shares(self) -> Json:
        """Where one more step's time goes, as `tgsbench profile` reads it off a trace."""

        def run_step(index: int) -> Step:
            self.step()
            synchronised_clock(self.device)
            return Step(step=index)

        with tempfile.TemporaryDirectory() as folder:
            with marking(self.engine.marks()):
                capture(_SHARES, self.device, Path(folder), "rank0", run_step)
            found = analyse_rank(Path(folder) / "rank0.json").profile.shares
        ordered = sorted(found.items(), key=lambda pair: -pair[1])
        return {name: round(share, 4) for name, share in ordered if share >= 0.0005}


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def forecast(preset: Preset) -> Forecast | None:
    """The planner's forecast for this GPU; None for hardware that it does not know."""
    gpu = find_gpu(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    if gpu is None and torch.cuda.is_available():
        return None  # the preset's own GPU would be another
    with suppress(TgsError):
        return forecast_preset(preset, gpu.name if gpu else "")
    return None


def _planned_gib(preset: Preset) -> float | None:
    """GiB of tensors at the peak, as planned."""
    found = forecast(preset)
    return found.memory.tensors_gib if found else None


def attempt(work: Callable[[], Json]) -> Json:
    """What `work` finds, or its error: a row that fails takes no other row with it."""
    try:
        found = work()
    except Exception as error:  # noqa: BLE001 - a JIT, a driver, an allocator: the row says what
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        text = str(error).strip().splitlines()
        found = {"error": f"{type(error).__name__}: {text[0] if text else ''}"[:300]}
    release()  # outside the handler, whose error refers to all that the row held
    return found


def release() -> None:
    """Give memory back that nothing refers to any more."""
    gc.collect()
    torch.cuda.empty_cache()


def ratio_of_pairs(a: Sequence[float], b: Sequence[float]) -> float:
    """Median ratio of figures that were measured side by side."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def emulated_row(preset: Preset, built: int, tiny: bool) -> Json:
    """One rank of a preset's mesh at two depths, and the published row scaled to this GPU by the planner."""
    device = device_of(tiny)
    mesh = fake_mesh(preset, device)
    try:
        batch, labels = make_batch(preset, mesh, device, lambda note: None)
        rank = EmulatedRank(preset, mesh, batch, labels, choose_depths(preset.model.num_layers, built))
        events: list[Depth] = list(rank.repetitions(1, 3))
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


def _scaled(preset: Preset) -> Json | None:
    """XTuner's TGS, and times what the planner says this GPU is faster than the row's at XTuner's work.

    Each GPU on its usual network: with the row's own slow one the factor would be the network's.
    """
    rows = load_references().get(preset.name, [])
    here = forecast(preset)
    if not rows or rows[0].tgs is None or here is None:
        return None
    with suppress(TgsError):
        there = forecast_preset(presets.resolve(preset.name, ["hardware.link="]).preset)
        if here.tgs and there.tgs:
            factor = here.tgs.estimate / there.tgs.estimate
            scaled = {"factor": factor, "scaled_tgs": rows[0].tgs * factor}
            return {"tgs": rows[0].tgs, "gpu": rows[0].gpu, **scaled}
    return {"tgs": rows[0].tgs, "gpu": rows[0].gpu}
