"""What a run on a virtual GPU is started with: which GPU, which rank, which steps, which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner.machine import unknown_gpu
from tgsbench.planner.memory import CONTEXT_BYTES
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import VirtualGpu
from tgsbench.systems import registry
from tgsbench.systems.engines import deepspeed, fsdp2
from tgsbench.systems.kv_hops import kv_nodes
from tgsbench.systems.spec import External
from tgsbench.virtual_gpu import build, installation
from tgsbench.virtual_gpu.installation import Installation

LOG_FOLDER = "virtual"
"""Of a run folder: what the device wrote down, a file a rank."""
ALL = "all"
_MOST_RANKS = 8
"""Processes of one machine: each takes about 2 GiB of host memory and a core."""
_STEPS = {"measure.warmup": 1, "measure.steps": 2}
_MICRO_STEPS = 2
"""The second accumulates gradients; all later ones do what it did."""


def find_virtual_gpu(name: str) -> GpuSpec:
    """The GPU of a key or driver name; TgsError (exit code 18) for one of which too little is known."""
    gpu = find_gpu(name)
    if gpu is None:
        raise unknown_gpu(name)
    if not gpu.compute_capability or not gpu.multiprocessors:
        raise TgsError(
            f"presets/hardware/{gpu.name}.toml says no compute_capability or multiprocessors, "
            "and a virtual GPU guesses neither",
            hint='add both, such as compute_capability = "9.0" and multiprocessors = 132',
            exit_code=ExitCode.UNKNOWN_HARDWARE,
        )
    return gpu


def short_run(preset: Preset, gpu: GpuSpec) -> list[str]:
    """Assignments that come before the user's own: that GPU, and as many steps as say something new."""
    steps = [f"{key}={value}" for key, value in _STEPS.items()]
    if preset.accumulation > _MICRO_STEPS:
        steps.append(f"training.accumulation={_MICRO_STEPS}")
    return ["hardware.device=cuda", f"hardware.gpu={gpu.name}", *steps]


def virtual_gpu(preset: Preset, gpu: GpuSpec, rank: str) -> VirtualGpu:
    """Which ranks run: one by its number, or all. Raises TgsError for a rank that the world does not have."""
    world = preset.world_size
    if preset.is_external:
        refuse_absent(preset.engine.name)
        _require_first(preset.engine.name, rank)
    if preset.profile:
        raise TgsError(
            f"a virtual GPU computes nothing that a profiler could time, and profile={preset.profile!r} asks",
            hint="leave --profile out, or --set profile=",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.engine.name == deepspeed.ENGINE.name and rank != "0":
        raise TgsError(
            f"--rank {rank}: {deepspeed.ENGINE.name} compares what each rank has with rank 0's own words, "
            "which nobody sends on a virtual GPU",
            hint=f"--rank 0, or --engine {fsdp2.ENGINE.name}",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.parallel.ep > 1 and preset.training.routing != "uniform":
        raise TgsError(
            "a virtual GPU computes no scores, and a router's choice says how many tokens go to each rank",
            hint="--set training.routing=uniform deals tokens in turn, or --set parallel.ep=1",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if rank == ALL:
        _require_few(world)
        return VirtualGpu(gpu=gpu.name)
    number = units.parse_count(rank)
    if number is None or number >= world:
        raise TgsError(f"--rank {rank}: {world} ranks are numbered 0 to {world - 1}, or write --rank {ALL}")
    return VirtualGpu(gpu=gpu.name, rank=number)


def installation_for(preset: Preset) -> Installation:
    """The environment that a preset's ranks need on a virtual GPU: ours, or that of another system.

    Raises TgsError (exit code 6) that says what it lacks and how to get it.
    """
    return installation.require_of(preset.engine.name) if preset.is_external else installation.require()


def refuse_absent(system: str) -> None:
    """Raise TgsError (exit code 13) with the reason where another system cannot run on a virtual GPU."""
    launch = registry.find_engine(system).launch
    if isinstance(launch, External) and launch.not_on_virtual_gpu:
        raise TgsError(
            f"engine {system} does not run on a virtual GPU: {launch.not_on_virtual_gpu}",
            hint=f"--engine {fsdp2.ENGINE.name} or --engine {deepspeed.ENGINE.name}",
            exit_code=ExitCode.UNSUPPORTED,
        )


def _require_first(system: str, rank: str) -> None:
    if rank != "0":
        raise TgsError(
            f"--rank {rank}: of {system} rank 0 alone runs there, for others wait for what rank 0 sends",
            hint=f"--rank 0, or --engine {fsdp2.ENGINE.name}",
            exit_code=ExitCode.UNSUPPORTED,
        )


def device_environment(
    base: Mapping[str, str],
    preset: Preset,
    virtual: VirtualGpu,
    installation: Installation,
    run_path: Path,
) -> dict[str, str]:
    """Variables under which a process finds the virtual device instead of a driver.

    Builds the device where it is not there yet; raises TgsError when it cannot be built.
    """
    gpu, folder = find_virtual_gpu(virtual.gpu), build.ensure_built(installation)
    log_folder = run_path / LOG_FOLDER
    log_folder.mkdir(exist_ok=True)
    major, _, minor = gpu.compute_capability.partition(".")
    libraries = [str(folder), base.get("LD_LIBRARY_PATH", "")]
    num_devices = preset.world_size if virtual.rank is None else 1
    preloaded = [str(build.library_of(folder)), base.get("LD_PRELOAD", "")]
    return {
        **base,
        "LD_PRELOAD": ":".join(filter(None, preloaded)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "TRITON_LIBCUDA_PATH": str(folder),
        # No peer answers the watchdog's questions.
        "TORCH_NCCL_ENABLE_MONITORING": "0",
        # From 256 ranks on (two roots of 128) each root waits for the others' ids: one stands for all.
        "TORCH_NCCL_RANKS_PER_ROOT": str(preset.world_size),
        "TGSBENCH_VGPU_NAME": f"NVIDIA {gpu.matches[0]}",
        "TGSBENCH_VGPU_MEMORY": str(int(gpu.memory_gib * units.GIB)),
        "TGSBENCH_VGPU_CONTEXT": str(CONTEXT_BYTES),
        "TGSBENCH_VGPU_COMPUTE": f"{major}{minor}",
        "TGSBENCH_VGPU_MULTIPROCESSORS": str(gpu.multiprocessors),
        "TGSBENCH_VGPU_DEVICES": str(num_devices),
        # What hides this machine's GPUs would hide virtual ones too: torch 2.11 then counts none.
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(num_devices))),
        "TGSBENCH_VGPU_MESH": ",".join(f"{size}x{stride}" for size, stride in _dimensions(preset)),
        "TGSBENCH_VGPU_LOG": str(log_folder),
    }


def _dimensions(preset: Preset) -> list[tuple[int, int]]:
    """Sizes and strides of the meshes' dimensions, in the order in which groups are made of them."""
    sp, ring, shard, ep = preset.parallel.sp, preset.ring, preset.shard, preset.parallel.ep
    found = [(preset.dp, sp), *([(ring, sp // ring)] if ring > 1 else []), (sp // ring, 1)]
    if shard != preset.world_size:
        found += [(preset.world_size // shard, shard), (shard, 1)]
    if ep > 1:
        found += [(preset.world_size // ep, ep), (ep, 1)]
    if (nodes := kv_nodes(preset)) > 1:
        inside = preset.ulysses // nodes
        found += [(preset.world_size // preset.ulysses, preset.ulysses), (nodes, inside), (inside, 1)]
    return found


def _require_few(world: int) -> None:
    if world > _MOST_RANKS:
        raise TgsError(
            f"--rank {ALL} starts {world} processes here; up to {_MOST_RANKS} are run together",
            hint="--rank 0 runs one rank of the whole world; every rank does the same",
            exit_code=ExitCode.DOES_NOT_FIT,
        )
