"""One rank of a large mesh in one process: true local shapes, collectives that only copy.

Under torch's fake process group an all-gather fills its output with this rank's shard and an all-to-all
returns its input, so tensors have the sizes and finite values they would have; nothing is sent. Layers are
cut to what memory allows, and the first few of them run in turn with all, so that the cost of a layer
separates from what does not depend on depth.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from msgspec.structs import replace

from tgsbench.models.spec import layer_parameters
from tgsbench.schema.events import Depth, Event, Kernel
from tgsbench.schema.preset import Preset
from tgsbench.training.device import MemoryMeter, synchronised_clock
from tgsbench.training.engines.base import Batch, Note
from tgsbench.training.engines.batches import Batches, StepCounts
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.fake_process_group import join_fake_group
from tgsbench.training.parallel.mesh import SequenceMesh, mesh_of
from tgsbench.training.parallel.traffic import TRAFFIC, event_fields
from tgsbench.workload import prepare

_BUDGET_S = 60.0
"""Time after which no further repetition starts, once there are _LEAST of them."""
_LEAST = 3

Clock = Callable[[torch.device], float]


@dataclass(frozen=True)
class Depths:
    """How many layers are built, and how many of them run."""

    built: int
    run: tuple[int, ...]


def choose_depths(num_layers: int, built: int = 4) -> Depths:
    """Half and all of `built` layers, two at least (preflight refuses a model of one)."""
    built = min(built, num_layers)
    assert built >= 2, built
    return Depths(built, (built // 2, built))


def emulate_rank(preset: Preset, device: torch.device, emit: Callable[[Event], object], note: Note) -> None:
    """Measure rank 0 of a preset's mesh under fsdp2 and emit every repetition."""
    mesh = fake_mesh(preset, device)
    try:
        batch, num_labels = make_batch(preset, mesh, device, note)
        _measure(preset, mesh, batch, num_labels, emit, note)
    finally:
        dist.destroy_process_group()


def fake_mesh(preset: Preset, device: torch.device) -> SequenceMesh:
    """Rank 0's view of the whole mesh."""
    join_fake_group(preset.world_size)
    return mesh_of(preset, device.type)


def make_batch(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> tuple[Batch, int]:
    """One micro-step's shard; documents have Alpaca's lengths where the corpus would need a download."""
    if preset.workload.corpus == "alpaca":
        preset = replace(preset, workload=replace(preset.workload, corpus="lengths", concat=1))
    data = prepare(preset, preset.training.micro_batch, note)
    batch = Batches(preset, mesh, data, device).batch(0, 0, StepCounts())
    return batch, max(1, data.num_labels(0)) * preset.packs_per_step


def _measure(
    preset: Preset,
    mesh: SequenceMesh,
    batch: Batch,
    num_labels: int,
    emit: Callable[[Event], object],
    note: Note,
) -> None:
    """Build as many layers as fit, then let the depths take turns."""
    depths = choose_depths(preset.model.num_layers)
    while True:
        try:
            _attempt(preset, mesh, batch, num_labels, depths, emit, note)
            return
        except torch.OutOfMemoryError:
            if depths.built <= 2:
                raise
        # Only here, outside the handler, nothing refers to the layers that did not fit.
        gc.collect()
        torch.cuda.empty_cache()
        depths = choose_depths(preset.model.num_layers, max(2, depths.built // 2))


def _attempt(
    preset: Preset,
    mesh: SequenceMesh,
    batch: Batch,
    num_labels: int,
    depths: Depths,
    emit: Callable[[Event], object],
    note: Note,
) -> None:
    note(f"building {depths.built} of {preset.model.num_layers} layers")
    rank = EmulatedRank(preset, mesh, batch, num_labels, depths)
    kernel = rank.engine.kernel
    emit(Kernel(name=kernel.name, version=kernel.version, reason=kernel.reason))
    note(f"layers {' and '.join(map(str, depths.run))} in turn")
    for event in rank.repetitions(preset.measure.warmup, preset.measure.steps):
        emit(event)


class EmulatedRank:
    """Rank 0 with its first layers."""

    def __init__(
        self,
        preset: Preset,
        mesh: SequenceMesh,
        batch: Batch,
        num_labels: int,
        depths: Depths,
        clock: Clock = synchronised_clock,
    ) -> None:
        self._device = batch.input_ids.device
        # Each repetition is a micro-step with an optimizer step behind it: the last one of an accumulation.
        shallow = replace(
            preset,
            model=replace(preset.model, num_layers=depths.built),
            training=replace(preset.training, accumulation=1),
        )
        self.engine = Fsdp2Engine(shallow, mesh, self._device)
        self._batch, self._num_labels, self._depths = batch, num_labels, depths
        self._memory = MemoryMeter(self._device)
        self._clock = clock
        self._tokens = batch.input_ids.numel()
        self._after_forward = 0
        self.engine.model.register_forward_hook(self._forward_is_over)
        # fp32 master weights and two Adam moments.
        self._state_bytes = 12 * layer_parameters(preset.model) // preset.shard

    def repetitions(self, warmup: int, repeats: int) -> Iterator[Depth]:
        """Warm up with all layers, so that all optimizer states are there, then time the depths in turn."""
        for _ in range(max(1, warmup)):
            self._once(self._depths.built, 0)
        begin_s = synchronised_clock(self._device)
        for index in range(max(repeats, _LEAST)):
            if index >= _LEAST and synchronised_clock(self._device) - begin_s > _BUDGET_S:
                return
            for num_layers in self._depths.run:
                yield self._once(num_layers, index)

    def _forward_is_over(self, *_: object) -> None:
        self._after_forward = self._memory.read().allocated

    def _once(self, num_layers: int, index: int) -> Depth:
        # transformers runs the layers that its configuration counts.
        self.engine.model.model.config.num_hidden_layers = num_layers
        self._memory.reset_peak()
        TRAFFIC.take()
        begin_s = self._clock(self._device)
        loss = self.engine.forward_backward(self._batch, self._num_labels)
        middle_s = self._clock(self._device)
        norm = self.engine.optimizer_step(0.0)
        end_s = self._clock(self._device)
        memory, sent = self._memory.read(), TRAFFIC.take()
        return Depth(
            num_layers=num_layers,
            built_layers=self._depths.built,
            index=index,
            micro_step_s=middle_s - begin_s,
            optimizer_s=end_s - middle_s,
            local_tokens=self._tokens,
            state_bytes_per_layer=self._state_bytes,
            mem_peak=memory.peak,
            mem_alloc=memory.allocated,
            mem_forward=self._after_forward,
            **event_fields(sent),
            finite=math.isfinite(float(loss)) and math.isfinite(float(norm)),
        )
