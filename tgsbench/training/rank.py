"""A rank's life: hello, data, build, warm-up, measure, profile, bye."""

from __future__ import annotations

import datetime
import os
import platform
import time
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tgsbench import presets
from tgsbench.events.emitter import Emitter
from tgsbench.metrics.progress import patience_s
from tgsbench.presets.recipes import load_recipe, num_profile_steps
from tgsbench.schema.events import Hello, Kernel, Phase, PhaseName, Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.recipe import Recipe
from tgsbench.store.run_dir import RunDir, digest_of_bytes
from tgsbench.system.environment import host_name
from tgsbench.system.gpus import GpuSampler
from tgsbench.systems import registry
from tgsbench.training.capture import capture
from tgsbench.training.device import device_name, pick_device
from tgsbench.training.emulate import emulate_rank
from tgsbench.training.engines.base import Engine
from tgsbench.training.engines.build import build_engine, make_batches
from tgsbench.training.evidence import ask_oracle, collect_evidence
from tgsbench.training.heartbeat import HeartbeatThread
from tgsbench.training.loop import Stepper
from tgsbench.training.meeting import loopback_store
from tgsbench.training.model.experts import EXPERT_LOAD
from tgsbench.training.parallel.mesh import SequenceMesh, mesh_of
from tgsbench.training.parallel.waits import COLLECTIVE_CLOCK
from tgsbench.training.rank_log import RankLog
from tgsbench.training.witness import Witness
from tgsbench.workload import PackedDataset, prepare

_VERSIONED = (
    "torch",
    "transformers",
    "datasets",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "liger-kernel",
    "tgsbench",
)


def run_rank(run_dir: Path, rank: int, emitter: Emitter) -> None:
    """Train as run_dir/preset.toml says and report; errors are the caller's to tell."""
    document = (run_dir / "preset.toml").read_bytes()
    preset = presets.from_document(tomllib.loads(document.decode()))
    life = _Rank(run_dir, rank, preset, emitter)
    life.preset_digest = digest_of_bytes(document)
    manifest = RunDir(run_dir).manifest()
    if manifest.emulated:
        life.emulate()
    elif manifest.for_verification == "oracle":
        life.ask_oracle()
    elif manifest.for_verification:
        life.probed = manifest.for_verification == "evidence"
        life.run(life.collect_evidence)
    else:
        life.run(life.train)


class _Rank:
    def __init__(self, run_dir: Path, rank: int, preset: Preset, emitter: Emitter) -> None:
        self.run_dir = run_dir
        self.rank = rank
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.preset = preset
        self.emitter = emitter
        self.recipe = load_recipe(preset.profile) if preset.profile else None
        self.device = pick_device(preset.hardware.device, self.local_rank)
        self.preset_digest = ""
        self.probed = False
        """For `tgsbench verify`: is all that enters the model read, and are the masks probed?"""

    def run(self, work: Callable[[SequenceMesh, PackedDataset, Engine], None]) -> None:
        """Come up, do the work with the engine, leave."""
        self._hello()
        self._phase("init")
        pulse = self._pulse()
        pulse.start()
        try:
            mesh = self._init_distributed()
            data = self._data()
            engine = self._engine(mesh)
            work(mesh, data, engine)
        finally:
            pulse.stop()
        self._phase("teardown")
        dist.destroy_process_group()

    def emulate(self) -> None:
        """Measure rank 0 of the whole mesh alone; see `trainer.emulate`."""
        self._hello()
        self._phase("build")
        pulse = self._pulse()
        pulse.start()
        try:
            emulate_rank(
                self.preset, self.device, self.emitter.emit, lambda note: self._phase("measure", note)
            )
        finally:
            pulse.stop()
        self._phase("teardown")

    def _hello(self) -> None:
        self.emitter.emit(
            Hello(
                world=int(os.environ["WORLD_SIZE"]),
                host=host_name(),
                device=device_name(self.device),
                pid=os.getpid(),
                local_rank=self.local_rank,
                unix_t=time.time(),
                versions=_versions(),
                preset_digest=self.preset_digest,
            )
        )

    def _phase(self, name: PhaseName, note: str = "") -> None:
        self.emitter.emit(Phase(phase=name, note=note))

    def _pulse(self) -> HeartbeatThread:
        log = RankLog(self.run_dir, self.rank)
        return HeartbeatThread(self.emitter, self.preset.measure.heartbeat_s, self._sampler(), log)

    def _sampler(self) -> GpuSampler | None:
        if self.device.type != "cuda":
            return None
        return GpuSampler.for_uuid(str(torch.cuda.get_device_properties(self.device).uuid))

    def _init_distributed(self) -> SequenceMesh:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        # Longer than the stall watch of the launcher, which must be the one that speaks first.
        forecast = RunDir(self.run_dir).manifest().forecast
        timeout_s = max(1800.0, 4 * patience_s(self.preset, forecast))
        dist.init_process_group(
            backend,
            timeout=datetime.timedelta(seconds=timeout_s),
            device_id=self.device if backend == "nccl" else None,
            **_meeting_place(),
        )
        mesh = mesh_of(self.preset, self.device.type)
        experts = mesh.experts.group if mesh.experts else None
        groups = {"sp": mesh.sp_group, "fsdp": mesh.shard_group, "ep": experts}
        COLLECTIVE_CLOCK.install(self.device, groups)
        return mesh

    def _data(self) -> PackedDataset:
        """Pack once per host: the first local rank fills the cache, the others read it."""
        self._phase("data")
        num_packs = self.preset.packs_per_step * (self._num_steps() + self._num_profile_steps())
        first = self.local_rank == 0
        if not first:
            dist.barrier()
        data = prepare(self.preset, num_packs, lambda note: self._phase("data", note))
        if first:
            dist.barrier()
        if self.rank == 0:
            self.emitter.emit(data.data)
            for warning in data.warnings:
                self.emitter.emit(warning)
        return data

    def _num_steps(self) -> int:
        return self.preset.measure.warmup + self.preset.measure.steps

    def _num_profile_steps(self) -> int:
        return num_profile_steps(self.recipe) if self.recipe else 0

    def _engine(self, mesh: SequenceMesh) -> Engine:
        self._phase("build")
        engine = build_engine(self.preset, mesh, self.device, lambda note: self._phase("build", note))
        kernel = engine.kernel
        self.emitter.emit(Kernel(name=kernel.name, version=kernel.version, reason=kernel.reason))
        return engine

    def collect_evidence(self, mesh: SequenceMesh, data: PackedDataset, engine: Engine) -> None:
        """Take the steps that `tgsbench verify` asks for and write down what was seen."""
        self._phase("measure")
        collect_evidence(
            self.run_dir,
            self.preset,
            mesh,
            data,
            engine,
            self.emitter.emit,
            lambda note: self._phase("measure", note),
            self.probed,
        )

    def ask_oracle(self) -> None:
        """Compute in fp64, on this one process, what the steps of a verified run should give."""
        self._hello()
        self._phase("data")
        num_packs = self.preset.packs_per_step * self._num_steps()
        data = prepare(self.preset, num_packs, lambda note: self._phase("data", note))
        ask_oracle(self.run_dir, self.preset, data, lambda note: self._phase("measure", note))
        self._phase("teardown")

    def train(self, mesh: SequenceMesh, data: PackedDataset, engine: Engine) -> None:
        """Warm up, measure, profile."""
        batches = make_batches(self.preset, mesh, data, self.device)
        witness = Witness(self.preset, mesh, data, engine)
        stepper = Stepper(self.preset, engine, batches, self._num_steps(), witness)
        warmup = self.preset.measure.warmup
        for index in range(self._num_steps()):
            phase: PhaseName = "warmup" if index < warmup else "measure"
            if index in (0, warmup):
                self._phase(phase)
            self.emitter.emit(stepper.step(index, phase))
            if index == 0:
                self.emitter.emit(witness.first_step())
            if stepper.waits is not None:
                self.emitter.emit(stepper.waits)
            if index == warmup - 1:
                EXPERT_LOAD.forget()
        self._tell_expert_load()
        if self.recipe is not None:
            self._profile(stepper, self.recipe)

    def _tell_expert_load(self) -> None:
        """How uneven the measured steps were for experts: the busiest decides how long a layer takes."""
        load = EXPERT_LOAD.take()
        if load is not None:
            self.emitter.emit(load)

    def _profile(self, stepper: Stepper, recipe: Recipe) -> None:
        """Capture in steps of their own: no measured step is a profiled one."""
        self._phase("profile", f"capturing {recipe.name}")

        def run_step(index: int) -> Step:
            event = stepper.step(self._num_steps() + index, "profile")
            self.emitter.emit(event)
            return event

        stem = f"{host_name()}_{self.rank:04d}"
        with stepper.marked():
            traces = capture(recipe, self.device, self.run_dir / "staging", stem, run_step)
        for trace in traces:
            self.emitter.emit(trace)


def _meeting_place() -> dict[str, Any]:
    """Arguments that join the store of a one-machine run; none where torch's variables say where to meet."""
    store = loopback_store()
    if store is None:
        return {}
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*_VERSIONED, *registry.engine_distributions()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found
