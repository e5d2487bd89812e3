"""What live events and profiler recipes cost a step on this device."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_rank import Rank, single_rank_group
from tgsbench.events.emitter import Emitter
from tgsbench.parallel.tracing import set_capturing
from tgsbench.presets import catalog
from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.recipe import Recipe
from tgsbench.system.gpus import GpuSampler
from tgsbench.trainer.device import MemoryMeter
from tgsbench.trainer.pulse import Pulse

_PAIRS = 8
_STEPS = 4
"""Steps of one sample: a pulse beats at most once a second."""


def events_ratio(preset: Preset) -> dict[str, Any]:
    """Steps with a step event, heartbeats and GPU samples over steps without, pair by pair."""
    with single_rank_group(preset), tempfile.TemporaryDirectory() as folder:
        rank = Rank(preset)
        emitter = Emitter(Path(folder) / "rank00000.jsonl", 0)
        meter = MemoryMeter(rank.device)

        def live() -> float:
            pulse = Pulse(emitter, 1.0, _sampler(rank.device))
            pulse.start()
            spent_s = sum(_observed(rank, emitter, meter) for _ in range(_STEPS))
            pulse.stop()
            return spent_s

        def silent() -> float:
            return sum(rank.timed() for _ in range(_STEPS))

        return _pairs(live, silent, _PAIRS)


def _observed(rank: Rank, emitter: Emitter, meter: MemoryMeter) -> float:
    from tgsbench.trainer.device import synchronised_clock

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


def recipe_ratios(preset: Preset) -> dict[str, Any]:
    """Profiled steps over plain ones by recipe of profiles/; the export is no part of a step."""
    found: dict[str, Any] = {}
    with single_rank_group(preset):
        rank = Rank(preset)
        for _ in range(2):
            rank.step()
        for name, path in catalog.files("profiles").items():
            recipe = catalog._convert(catalog.read_toml(path), Recipe, path)
            found[name] = _pairs(_profiled(rank, recipe), rank.timed, 3)
    return found


def _profiled(rank: Rank, recipe: Recipe) -> Callable[[], float]:
    def run() -> float:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if rank.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        options = {
            "with_stack": recipe.with_stack,
            "record_shapes": recipe.record_shapes,
            "profile_memory": recipe.profile_memory,
        }
        set_capturing(True)
        try:
            with torch.profiler.profile(activities=kinds, **options):
                rank.step()  # the first step under a profiler also sets it up
                return rank.timed()
        finally:
            set_capturing(False)

    return run


def _pairs(a: Callable[[], float], b: Callable[[], float], count: int) -> dict[str, Any]:
    a(), b()
    ratios = [x / y for x, y in ((a(), b()) for _ in range(count))]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "n": count}
