"""The measured step: micro-steps, one optimizer step, one line of what was observed."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch

from tgsbench.schema import spans
from tgsbench.schema.events import Step, Waits
from tgsbench.schema.preset import Preset
from tgsbench.training.device import MemoryMeter, synchronised_clock
from tgsbench.training.engines.base import Engine
from tgsbench.training.engines.batches import Batches, StepCounts
from tgsbench.training.errors import check_finite
from tgsbench.training.parallel.tracing import marking, span
from tgsbench.training.parallel.traffic import event_fields
from tgsbench.training.parallel.waits import COLLECTIVE_CLOCK
from tgsbench.training.progress import PROGRESS
from tgsbench.training.witness import Witness


class Stepper:
    """Runs optimizer steps on one rank and reports each."""

    def __init__(
        self, preset: Preset, engine: Engine, batches: Batches, num_steps: int, witness: Witness
    ) -> None:
        self._preset = preset
        self._engine = engine
        self._batches = batches
        self._num_steps = num_steps
        self._device = engine.device
        self._witness = witness
        self._memory = MemoryMeter(engine.device)
        self.waits: Waits | None = None
        """How long the newest step stood in collectives; None where that was not looked at."""

    def marked(self) -> AbstractContextManager[None]:
        """Inside, the engine's calls get their spans."""
        return marking(self._engine.marks())

    def step(self, index: int, phase: str) -> Step:
        """Run optimizer step `index`; raises LossNotFinite when the loss is NaN or infinite."""
        self._memory.reset_peak()
        self._witness.begin_step()
        num_labels = max(1, self._batches.num_labels(index))
        fed, loss_sum, data_s = StepCounts(), torch.zeros((), device=self._device), 0.0
        PROGRESS.begin_step(index, self._preset.accumulation)
        COLLECTIVE_CLOCK.begin_step(index)
        begin_s = synchronised_clock(self._device)
        for micro_step in range(self._preset.accumulation):
            PROGRESS.enter_micro_step(micro_step)
            data_begin_s = synchronised_clock(torch.device("cpu"))
            with span(spans.DATA):
                batch = self._batches.batch(index, micro_step, fed)
            data_s += synchronised_clock(torch.device("cpu")) - data_begin_s
            loss_sum += self._engine.forward_backward(batch, num_labels)
            self._witness.end_micro_step()
        grad_norm = self._engine.optimizer_step(learning_rate(self._preset, index, self._num_steps))
        step_s = synchronised_clock(self._device) - begin_s
        self.waits = COLLECTIVE_CLOCK.end_step(index, step_s)
        return self._observed(index, phase, step_s, data_s, fed, float(loss_sum), float(grad_norm))

    def _observed(
        self,
        index: int,
        phase: str,
        step_s: float,
        data_s: float,
        fed: StepCounts,
        loss_sum: float,
        norm: float,
    ) -> Step:
        check_finite(index, loss_sum, norm)
        memory = self._memory.read()
        seen = self._witness.end_step(index)
        return Step(
            step=index,
            phase=phase,
            tokens=fed.tokens,
            labels=fed.labels,
            micro_steps=self._preset.accumulation,
            step_s=step_s,
            data_s=data_s,
            loss_sum=loss_sum,
            grad_norm=norm,
            mem_alloc=memory.allocated,
            mem_reserved=memory.reserved,
            mem_peak=memory.peak,
            **event_fields(seen.sent),
            pack_tokens=seen.pack_tokens,
            seen_checksum=seen.checksum,
            pack_checksum=seen.pack_checksum,
            pack_digest=seen.pack_digest,
            update=seen.update,
        )


def learning_rate(preset: Preset, step: int, num_steps: int) -> float:
    """Linear warm-up over lr_warmup_ratio of the steps, then cosine to zero (XTuner's schedule)."""
    warmup = max(1, round(preset.training.lr_warmup_ratio * num_steps))
    if step < warmup:
        return preset.training.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return preset.training.lr * 0.5 * (1 + math.cos(math.pi * progress))
