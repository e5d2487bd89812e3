"""Captures profiler traces in a rank, in steps of their own; the only profiling module that imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from tgsbench.parallel.tracing import set_capturing
from tgsbench.profiling.recipes import num_profile_steps
from tgsbench.schema.events import Step, Trace
from tgsbench.schema.recipe import Recipe

_PROBE_SIDE = 1024
_PROBE_REPEATS = 8
_SNAPSHOT_ENTRIES = 200_000


def capture(
    recipe: Recipe,
    device: torch.device,
    staging: Path,
    stem: str,
    run_step: Callable[[int], Step],
) -> list[Trace]:
    """Run the recipe's steps and write this rank's trace, if the recipe wants this rank, as STEM.json.

    `run_step(i)` runs the i-th profiled step; every rank runs them all. The trace is plain JSON in a
    staging folder: compressing is the parent's work (gzip in here cost 8.7 s for 361 MB).
    """
    wanted = _wanted(recipe, device)
    profiler = _profiler(recipe, device) if wanted else None
    if wanted and recipe.memory_snapshot and device.type == "cuda":
        torch.cuda.memory._record_memory_history(max_entries=_SNAPSHOT_ENTRIES)
    set_capturing(wanted)
    steps = []
    if profiler is not None:
        profiler.start()
    for index in range(num_profile_steps(recipe)):
        steps.append(run_step(index).step)
        if profiler is not None:
            profiler.step()
    set_capturing(False)
    if profiler is None:
        return []
    return _export(profiler, recipe, device, staging, stem, steps[recipe.warmup_steps :])


def _profiler(recipe: Recipe, device: torch.device) -> profile:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    return profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=recipe.warmup_steps, active=recipe.active_steps, repeat=1),
        on_trace_ready=lambda _: None,
        record_shapes=recipe.record_shapes,
        profile_memory=recipe.profile_memory,
        with_stack=recipe.with_stack,
    )


def _export(
    profiler: profile, recipe: Recipe, device: torch.device, staging: Path, stem: str, steps: list[int]
) -> list[Trace]:
    begin_s = time.perf_counter()
    profiler.stop()
    staging.mkdir(exist_ok=True)
    traces = [_written(staging / f"{stem}.json", profiler.export_chrome_trace, steps, begin_s)]
    if recipe.memory_snapshot and device.type == "cuda":
        snapshot = staging / f"{stem}.memory.pickle"
        traces.append(_written(snapshot, torch.cuda.memory._dump_snapshot, steps, time.perf_counter()))
        torch.cuda.memory._record_memory_history(enabled=None)
    return traces


def _written(path: Path, write: Callable[[str], object], steps: list[int], begin_s: float) -> Trace:
    """Write under a temporary name, so that a file with the final name is whole."""
    partial = path.with_name(f".{path.name}")
    write(str(partial))
    partial.replace(path)
    export_s = time.perf_counter() - begin_s
    return Trace(path=path.name, steps=steps, num_bytes=path.stat().st_size, export_s=export_s)


def _wanted(recipe: Recipe, device: torch.device) -> bool:
    """Does the recipe want this rank? All ranks must ask: finding the slowest is a collective."""
    rank = dist.get_rank()
    if recipe.ranks == "all":
        return True
    if recipe.ranks == "first":
        return rank == 0
    return rank in (0, _slowest_rank(device))


def _slowest_rank(device: torch.device) -> int:
    """The rank whose device is slowest at a fixed burst of products.

    Step times cannot tell: collectives make all ranks' alike.
    """
    mine = torch.tensor([_burst_s(device)], device=device, dtype=torch.float64)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return int(torch.cat(everyone).argmax())


def _burst_s(device: torch.device) -> float:
    x = torch.ones(_PROBE_SIDE, _PROBE_SIDE, device=device)
    best_s = float("inf")
    for _ in range(3):
        begin_s = time.perf_counter()
        for _ in range(_PROBE_REPEATS):
            x @ x
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - begin_s)
    return best_s
