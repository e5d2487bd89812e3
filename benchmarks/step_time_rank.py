"""One rank of tgsbench's own engines in benchmarks/step_time.py: `python -m benchmarks.step_time_rank SETS`.

The trainer's own Stepper with the engine that the preset names, as `tgsbench run` would have it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from benchmarks.turns import take_turns
from tgsbench import presets
from tgsbench.schema import spans
from tgsbench.training.engines.build import build_engine, make_batches
from tgsbench.training.loop import Stepper
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.tracing import set_capturing
from tgsbench.training.witness import Witness
from tgsbench.workload import prepare

NUM_STEPS = 256
"""More than any comparison runs: the learning rate's schedule is cut to it."""


class Rank:
    """Builds the engine once and steps when told."""

    def __init__(self, sets: list[str]) -> None:
        dist.init_process_group("gloo")
        preset = presets.resolve("tiny_cpu", sets).preset
        device = torch.device("cpu")
        mesh = build_mesh("cpu", preset.parallel.sp)
        data = prepare(preset, preset.packs_per_step * 4, lambda _: None)
        engine = build_engine(preset, mesh, device, lambda _: None)
        self._batches = make_batches(preset, mesh, data, device)
        witness = Witness(preset, mesh, data, engine)
        self._stepper = Stepper(preset, engine, self._batches, NUM_STEPS, witness)
        self._index = 0

    def step(self) -> float:
        """One optimizer step; the mean of all ranks' values is the mean loss of a label."""
        num_labels = self._batches.num_labels(self._index)
        done = self._stepper.step(self._index, "measure")
        self._index += 1
        return done.loss_sum * dist.get_world_size() / num_labels

    def profiled(self, _word: str) -> dict[str, Any]:
        """A step under the profiler: its seconds, and those of attention and all-to-alls recomputed in it."""
        set_capturing(True)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            done = self._stepper.step(self._index, "profile")
        set_capturing(False)
        self._index += 1
        return {"seconds": done.step_s, "recomputed_attention": _recomputed_s(profiler)}


def _recomputed_s(profiler: profile) -> float:
    """Seconds inside spans that a selective checkpoint does not run again."""
    saved = {spans.ATTENTION, spans.A2A_PRE, spans.A2A_POST}
    found = [event for event in profiler.events() if event.name in saved and _in_recompute(event)]
    return float(sum(event.cpu_time_total for event in found)) / 1e6


def _in_recompute(event: Any) -> bool:
    while event is not None and event.name != spans.RECOMPUTE:
        event = event.cpu_parent
    return event is not None


if __name__ == "__main__":
    rank = Rank(json.loads(sys.argv[1]))
    take_turns(rank.step, rank.profiled)
