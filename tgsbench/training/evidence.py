"""What a rank does for `tgsbench verify`: optimizer steps as they are measured, and what they did is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import EVIDENCE, GRADIENTS, UPDATES, Evidence, Routing, evidence_of
from tgsbench.store.run_dir import RunDir
from tgsbench.training.engines.base import Batch, Engine, Note
from tgsbench.training.engines.build import make_batches
from tgsbench.training.loop import Stepper
from tgsbench.training.mask_probes import MaskProber
from tgsbench.training.observers import InputRecorder, ReductionMeter, expected_shards
from tgsbench.training.oracle import Oracle
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.training.parallel.tracing import Mark
from tgsbench.training.routes import RouteRecorder, routes_of
from tgsbench.training.witness import Witness
from tgsbench.workload import PackedDataset

Float64 = npt.NDArray[np.float64]
OnStep = Callable[[Step], object]
_TOLD = 5
"""The oracle says so often where it is: 20 steps of a mixture of experts take minutes on a busy machine."""


def collect_evidence(
    run_dir: Path,
    preset: Preset,
    mesh: SequenceMesh,
    data: PackedDataset,
    engine: Engine,
    on_step: OnStep,
    note: Note,
    probed: bool,
) -> None:
    """Train `measure.steps` optimizer steps and write down what was seen.

    Writes evidence/rankNNNNN.json and, on rank 0, the whole gradients of the first step. `probed`: also all
    that enters the model, what tokens that are changed move, and what all steps changed in each parameter.
    """
    num_steps = preset.measure.steps
    reductions, recorder = ReductionMeter(), InputRecorder(mesh.rank) if probed else None
    routes = RouteRecorder() if probed else None
    before = _whole(engine.parameters(), mesh.rank) if probed else {}
    tapped = _Tapped(engine, lambda: _store(run_dir / GRADIENTS, _whole(engine.gradients(), mesh.rank)))
    batches = make_batches(preset, mesh, data, engine.device)
    witness = Witness(preset, mesh, data, engine)
    stepper = Stepper(preset, tapped, batches, preset.measure.warmup + num_steps, witness)
    seen = Evidence(rank=mesh.rank)
    steps = "one optimizer step" if num_steps == 1 else f"{num_steps} optimizer steps"
    note(f"{steps}: losses, gradients, tokens, labels, all-to-alls")
    for index in range(num_steps):
        if recorder is not None:
            recorder.begin_step(index)
        step = stepper.step(index, "measure")
        seen.all_to_alls.append((step.a2a_calls, step.a2a_bytes))
        seen.ring_sends.append((step.ring_calls or 0, step.ring_bytes or 0))
        seen.expert_exchanges.append((step.expert_calls or 0, step.expert_bytes or 0))
        seen.kv_hops.append((step.hop_calls or 0, step.hop_bytes or 0))
        seen.gathers.append((step.gather_calls or 0, step.gather_bytes or 0))
        seen.scatters.append((step.scatter_calls or 0, step.scatter_bytes or 0))
        seen.copy_sums.append((step.copy_calls or 0, step.copy_bytes or 0))
        seen.loss_sums.append(step.loss_sum)
        seen.grad_norms.append(step.grad_norm)
        seen.num_labels.append(batches.num_labels(index))
        seen.tokens.append(step.tokens)
        on_step(step)
    seen.reduced = sorted(reductions.types)
    if recorder is not None and routes is not None:
        recorder.close()
        routes.store(run_dir / EVIDENCE, mesh.rank, preset)
        seen.cuts = recorder.cuts
        seen.demanded = expected_shards(preset, data, num_steps) if mesh.rank == 0 else []
        after = _whole(engine.parameters(), mesh.rank)
        _store(run_dir / UPDATES, {name: after[name] - value for name, value in before.items()})
        note("document mask and causality: tokens are changed")
        probe = MaskProber(preset, mesh, data, engine)
        seen.leak, seen.causality = probe.change_document(), probe.change_later_tokens()
    RunDir(run_dir).write(evidence_of(mesh.rank), msgspec.to_builtins(seen))


def ask_oracle(run_dir: Path, preset: Preset, data: PackedDataset, note: Note) -> None:
    """Compute the run's steps in fp64 and write them down as a rank does."""
    follows = RunDir(run_dir).manifest().follows
    routes = routes_of(run_dir.parent / follows, preset) if follows else None
    oracle, seen, num_steps = Oracle(preset, data, routes), Evidence(rank=0), preset.measure.steps
    for index in range(num_steps):
        if index % _TOLD == 0:
            note(f"fp64 oracle: optimizer step {index + 1} of {num_steps}")
        step = oracle.step(index, preset.measure.warmup + num_steps)
        seen.loss_sums.append(step.loss_sum)
        seen.num_labels.append(step.num_labels)
        seen.grad_norms.append(step.grad_norm)
        if index == 0:
            _store(run_dir / GRADIENTS, {name: g.numpy() for name, g in step.gradients.items()})
    ties = oracle.ties
    seen.routing = Routing(decisions=ties.num_decisions, ties=ties.num_taken, farthest=ties.farthest)
    updates = {name: (w.detach() - oracle.start[name]).numpy() for name, w in oracle.weights.items()}
    _store(run_dir / UPDATES, updates)
    RunDir(run_dir).write(evidence_of(0), msgspec.to_builtins(seen))


class _Tapped:
    """The engine, with a look at its gradients before the first optimizer step."""

    def __init__(self, engine: Engine, on_gradients: Callable[[], None]) -> None:
        self.kernel, self.device = engine.kernel, engine.device
        self._engine = engine
        self._on_gradients: Callable[[], None] | None = on_gradients

    def forward_backward(self, batch: Batch, num_labels: int) -> Tensor:
        return self._engine.forward_backward(batch, num_labels)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        return self._engine.gradients()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        return self._engine.parameters()

    def embedding(self) -> nn.Module:
        return self._engine.embedding()

    def own_masters(self, layer: int) -> Iterator[Tensor]:
        return self._engine.own_masters(layer)

    def own_gradients(self) -> Iterator[Tensor]:
        return self._engine.own_gradients()

    def moments_squared(self) -> float | None:
        return self._engine.moments_squared()

    def marks(self) -> list[Mark]:
        return self._engine.marks()

    def optimizer_step(self, lr: float) -> Tensor:
        if self._on_gradients is not None:
            self._on_gradients()
            self._on_gradients = None
        return self._engine.optimizer_step(lr)


def _whole(parts: Iterator[tuple[str, Tensor]], rank: int) -> dict[str, Float64]:
    """Whole tensors in fp64 on rank 0, nothing elsewhere; every rank must take part."""
    return {name: x.detach().cpu().double().numpy().copy() for name, x in parts if rank == 0}


def _store(path: Path, arrays: dict[str, Float64]) -> None:
    if arrays:
        np.savez(path, allow_pickle=False, **arrays)
