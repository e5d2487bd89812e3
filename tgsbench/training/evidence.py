"""What a rank does for `tgsbench verify`: optimizer steps as they are measured, under a witness's eyes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import GRADIENTS, Evidence, MaskProbe, evidence_of
from tgsbench.store.run_dir import RunDir
from tgsbench.training.engines.base import Batch, Engine, Note
from tgsbench.training.engines.batches import Batches, StepCounts
from tgsbench.training.engines.build import make_batches
from tgsbench.training.loop import Stepper
from tgsbench.training.observers import AllToAllMeter, InputRecorder, expected_shards
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.training.parallel.tracing import Mark
from tgsbench.workload import IGNORE_INDEX, Pack, PackedDataset

OnStep = Callable[[Step], object]


def collect_evidence(
    run_dir: Path,
    preset: Preset,
    mesh: SequenceMesh,
    data: PackedDataset,
    engine: Engine,
    on_step: OnStep,
    note: Note,
) -> None:
    """Train `measure.steps` optimizer steps, change one document, and write down what was seen.

    Writes evidence/rankNNNNN.json and, on rank 0, the whole gradients of the first step.
    """
    num_steps = preset.measure.steps
    network, witness = AllToAllMeter(), InputRecorder(mesh.rank)
    tapped = _Tapped(engine, lambda: _keep_gradients(engine, run_dir, mesh.rank))
    batches = make_batches(preset, mesh, data, engine.device)
    stepper = Stepper(preset, tapped, batches, num_steps, engine.device)
    seen = Evidence(rank=mesh.rank)
    steps = "one optimizer step" if num_steps == 1 else f"{num_steps} optimizer steps"
    note(f"{steps}: losses, gradients, tokens, labels, all-to-alls")
    for index in range(num_steps):
        witness.begin_step(index)
        network.take()
        step = stepper.step(index, "measure")
        seen.all_to_alls.append(network.take())
        seen.loss_sums.append(step.loss_sum)
        seen.grad_norms.append(step.grad_norm)
        seen.num_labels.append(batches.num_labels(index))
        on_step(step)
    witness.close()
    seen.cuts = witness.cuts
    if mesh.rank == 0:
        seen.demanded = expected_shards(preset, data, num_steps)
    note("document mask: one document is changed")
    seen.leak = _leak(preset, mesh, data, engine)
    RunDir(run_dir).write(evidence_of(mesh.rank), msgspec.to_builtins(seen))


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

    def marks(self) -> list[Mark]:
        return self._engine.marks()

    def optimizer_step(self, lr: float) -> Tensor:
        if self._on_gradients is not None:
            self._on_gradients()
            self._on_gradients = None
        return self._engine.optimizer_step(lr)


def _keep_gradients(engine: Engine, run_dir: Path, rank: int) -> None:
    kept = {name: g.float().cpu().numpy() for name, g in engine.gradients() if rank == 0}
    if rank == 0:
        np.savez(run_dir / GRADIENTS, allow_pickle=False, **kept)


def _leak(preset: Preset, mesh: SequenceMesh, data: PackedDataset, engine: Engine) -> MaskProbe | None:
    """Losses before and after a change of one document per row; the mask is turned on for it.

    Packs are read by our own code here: DeepSpeed's adapter deals them in order and only once.
    """
    workload = msgspec.structs.replace(preset.workload, document_mask=True)
    masked = msgspec.structs.replace(preset, workload=workload)
    packed = dataclasses.replace(data, document_mask=True)
    step = _step_with_documents(masked, packed)
    if step is None:
        return None
    dealt = Batches(masked, mesh, packed, engine.device)
    batch = dealt.batch(step, 0, StepCounts())
    rows = [_Row(packed, index) for index in dealt.indices(step, 0)]
    here = slice(mesh.sp_rank * batch.labels.shape[1], (mesh.sp_rank + 1) * batch.labels.shape[1])
    inside = torch.from_numpy(np.stack([row.inside[here] for row in rows])).to(engine.device)
    changed = torch.where(inside, (batch.input_ids + 1) % preset.model.vocab_size, batch.input_ids)
    probe = _Probe(engine, preset.accumulation)
    losses = [
        probe.loss(dataclasses.replace(batch, input_ids=ids, labels=labels))
        for labels in (_kept(batch.labels, ~inside), _kept(batch.labels, inside))
        for ids in (batch.input_ids, changed)
    ]
    document = "; ".join(row.name for row in rows)
    return MaskProbe(
        document=document, others=losses[0], others_after=losses[1], own=losses[2], own_after=losses[3]
    )


def _kept(labels: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, labels, torch.full_like(labels, IGNORE_INDEX))


class _Probe:
    """Asks for losses and leaves the weights as they are: every optimizer step has lr 0."""

    def __init__(self, engine: Engine, accumulation: int) -> None:
        self._engine = engine
        self._accumulation = accumulation
        self._num_done = 0

    def loss(self, batch: Batch) -> float:
        """This rank's loss of one micro-step."""
        loss = float(self._engine.forward_backward(batch, 1))
        self._num_done += 1
        if self._num_done % self._accumulation == 0:
            self._engine.optimizer_step(0.0)
        return loss


class _Row:
    """One pack and the document in it that is changed: the longest but the last, with others after it."""

    def __init__(self, data: PackedDataset, index: int) -> None:
        pack = data.pack(index)
        borders = [*pack.doc_starts.tolist(), pack.num_tokens]
        number = int(np.argmax(np.diff(borders)[:-1]))
        position = np.arange(len(pack.tokens))
        self.inside = (position >= borders[number]) & (position < borders[number + 1])
        self.name = f"document {number + 1} of pack {index}"


def _step_with_documents(preset: Preset, data: PackedDataset) -> int | None:
    """First step in whose first micro-step every pack holds labelled documents besides the one changed."""
    first = preset.dp * preset.training.micro_batch
    for step in range(preset.measure.steps):
        begin = step * preset.packs_per_step
        if all(_is_fit(data, index) for index in range(begin, begin + first)):
            return step
    return None


def _is_fit(data: PackedDataset, index: int) -> bool:
    pack: Pack = data.pack(index)
    if len(pack.doc_starts) < 2:
        return False
    inside = _Row(data, index).inside
    return bool((pack.labels[inside] >= 0).any() and (pack.labels[~inside] >= 0).any())
