"""Captures profiler traces in a rank, in steps of their own; the only profiling module that imports torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from tgsbench.presets.recipes import num_profile_steps
from tgsbench.schema.events import Step, Trace, Warn
from tgsbench.schema.recipe import Recipe
from tgsbench.store.staging import discard_partial
from tgsbench.training.parallel.tracing import set_capturing

_PROBE_SIDE = 1024
_PROBE_REPEATS = 8
_SNAPSHOT_ENTRIES = 200_000


def capture(
    recipe: Recipe,
    device: torch.device,
    staging: Path,
    stem: str,
    run_step: Callable[[int], Step],
) -> list[Trace | Warn]:
    """Run the recipe's steps and write this rank's trace, if the recipe wants this rank, as STEM.json.

    `run_step(i)` runs the i-th profiled step; every rank runs them all. The trace is plain JSON in a
    staging folder: compressing is the parent's work (gzip in here cost 8.7 s for 361 MB). A trace that
    cannot be written is taken away again, before any rank goes on: events need the room.
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
    written: list[Trace | Warn] = []
    if profiler is not None:
        written = _export(profiler, recipe, device, staging, stem, steps[recipe.warmup_steps :])
    dist.barrier()
    return written


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
) -> list[Trace | Warn]:
    begin_s = time.perf_counter()
    profiler.stop()
    with contextlib.suppress(OSError):  # then the trace cannot be written, which is said
        staging.mkdir(exist_ok=True)
    traces = [_written(staging / f"{stem}.json", profiler.export_chrome_trace, steps, begin_s)]
    if recipe.memory_snapshot and device.type == "cuda":
        snapshot = staging / f"{stem}.memory.pickle"
        traces.append(_written(snapshot, torch.cuda.memory._dump_snapshot, steps, time.perf_counter()))
        torch.cuda.memory._record_memory_history(enabled=None)
    return traces


def _written(path: Path, write: Callable[[str], object], steps: list[int], begin_s: float) -> Trace | Warn:
    """Write under a temporary name, so that a file with the final name is whole.

    On a full disk Kineto raises nothing: it leaves half a file under a name of its own.
    """
    partial = path.with_name(f".{path.name}")
    try:
        write(str(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        is_full, removed_mib = discard_partial(path)
        why = "the disk is full" if is_full else getattr(error, "strerror", None) or str(error)
        gone = f"the {removed_mib:,.1f} MiB that fitted are removed"
        return Warn(
            code="trace_lost",
            msg=f"{path.name} could not be written: {why}; {gone}",
            hint="choose a folder with room: --output DIR; or a recipe that records less",
        )
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
