"""What live events and profiler recipes cost a step on this device."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu_rank import Json, Rank, attempt, single_rank_group
from tgsbench.events.emitter import Emitter
from tgsbench.presets import catalog
from tgsbench.presets.recipes import load_recipe
from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.recipe import Recipe
from tgsbench.system.gpus import GpuSampler
from tgsbench.training.capture import capture
from tgsbench.training.device import MemoryMeter, synchronised_clock
from tgsbench.training.heartbeat import HeartbeatThread
from tgsbench.training.parallel.tracing import marking
from tgsbench.training.rank_log import RankLog

_SAMPLE_S = 1.2
"""Least length of a sample: the first beat of a pulse comes after a second."""


def events_ratio(preset: Preset, pairs: int) -> Json:
    """Steps with a step event, heartbeats and GPU samples over steps without, pair by pair."""
    with single_rank_group(preset), tempfile.TemporaryDirectory() as folder:
        rank = Rank(preset)
        rank.warm_up(2)
        steps = math.ceil(_SAMPLE_S / rank.timed())
        emitter = Emitter(Path(folder) / "rank00000.jsonl", 0)
        meter = MemoryMeter(rank.device)

        def live() -> float:
            pulse = HeartbeatThread(emitter, 1.0, _sampler(rank.device), RankLog(Path(folder), 0))
            pulse.start()
            spent_s = sum(_observed(rank, emitter, meter) for _ in range(steps))
            pulse.stop()
            return spent_s

        def silent() -> float:
            return sum(rank.timed() for _ in range(steps))

        return _pairs(live, silent, pairs)


def _observed(rank: Rank, emitter: Emitter, meter: MemoryMeter) -> float:
    begin_s = synchronised_clock(rank.device)
    meter.reset_peak()
    loss = rank.step()
    memory = meter.read()
    emitter.emit(Step(step=0, loss_sum=loss, mem_alloc=memory.allocated, mem_peak=memory.peak))
    return synchronised_clock(rank.device) - begin_s


def _sampler(device: torch.device) -> GpuSampler | None:
    if device.type != "cuda":
        return None
    return GpuSampler.for_uuid(str(torch.cuda.get_device_properties(device).uuid))


def recipe_ratios(preset: Preset, captures: int) -> Iterator[Json]:
    """Profiled steps over plain ones, after each recipe of profiles/; the export is no part of a step."""
    found: Json = {}
    with single_rank_group(preset):
        rank = Rank(preset)
        rank.warm_up(2)
        for name in catalog.files("profiles"):
            found[name] = attempt(
                lambda name=name: _pairs(_captured(rank, load_recipe(name)), rank.timed, captures)
            )
            yield found


def _captured(rank: Rank, recipe: Recipe) -> Callable[[], float]:
    """Seconds of one step that a run's own capture records."""

    def run() -> float:
        times_s: list[float] = []

        def run_step(index: int) -> Step:
            times_s.append(rank.timed())
            return Step(step=index)

        with tempfile.TemporaryDirectory() as folder, marking(rank.engine.marks()):
            capture(recipe, rank.device, Path(folder), "rank0", run_step)
        return statistics.median(times_s[recipe.warmup_steps :])

    return run


def _pairs(a: Callable[[], float], b: Callable[[], float], count: int) -> Json:
    a(), b()
    ratios = [x / y for x, y in ((a(), b()) for _ in range(count))]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "n": count}
