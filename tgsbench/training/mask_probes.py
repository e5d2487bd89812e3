"""Does a token reach a loss that it must not reach? Changes tokens, compares the losses before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import MaskProbe
from tgsbench.training.engines.base import Batch, Engine
from tgsbench.training.engines.batches import Batches, StepCounts
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.workload import IGNORE_INDEX, Pack, PackedDataset
from tgsbench.workload.zigzag import layout_of

Bools = npt.NDArray[np.bool_]
Change = Callable[[Pack], tuple[Bools, str]]
"""Which positions [S] of a pack are changed, and what they are called."""


class MaskProber:
    """Asks the trained engine for losses of changed packs; every position with a next token is labelled.

    Packs are read by our own code here: DeepSpeed's adapter deals them in order and only once. The weights
    stay as they are: every optimizer step has lr 0.
    """

    def __init__(self, preset: Preset, mesh: SequenceMesh, data: PackedDataset, engine: Engine) -> None:
        self._preset = preset
        self._mesh = mesh
        self._data = data
        self._engine = engine
        self._num_done = 0

    def change_document(self) -> MaskProbe | None:
        """One document a row is changed, with the document mask on; None where no pack holds two."""
        workload = msgspec.structs.replace(self._preset.workload, document_mask=True)
        masked = msgspec.structs.replace(self._preset, workload=workload)
        packed = dataclasses.replace(self._data, document_mask=True)
        step = _step_with_documents(masked, packed)
        return None if step is None else self._losses(masked, packed, step, longest_document)

    def change_later_tokens(self) -> MaskProbe:
        """Everything from the middle of a shard on is changed, under the preset's own mask."""
        return self._losses(self._preset, self._data, 0, self._second_part)

    def _second_part(self, pack: Pack) -> tuple[Bools, str]:
        size = len(pack.tokens) // self._mesh.sp
        begin = (self._mesh.sp // 2) * size + size // 2 + 1
        return np.arange(len(pack.tokens)) >= begin, f"position {begin} and all later ones"

    def _losses(self, preset: Preset, data: PackedDataset, step: int, change: Change) -> MaskProbe:
        dealt = Batches(preset, self._mesh, data, self._engine.device)
        batch = dealt.batch(step, 0, StepCounts())
        packs = [(index, data.pack(index)) for index in dealt.indices(step, 0)]
        inside = self._shard([change(pack)[0] for _, pack in packs])
        labels = self._shard([next_tokens(pack) for _, pack in packs])
        vocab = preset.model.vocab_size
        changed = torch.where(inside, (batch.input_ids + vocab // 2) % vocab, batch.input_ids)
        losses = [
            self._loss(dataclasses.replace(batch, input_ids=ids, labels=kept))
            for kept in (_kept(labels, ~inside), _kept(labels, inside))
            for ids in (batch.input_ids, changed)
        ]
        return MaskProbe(
            changed="; ".join(f"{change(pack)[1]} of pack {index}" for index, pack in packs),
            others=losses[0],
            others_after=losses[1],
            own=losses[2],
            own_after=losses[3],
        )

    def _shard(self, rows: Sequence[npt.NDArray[Any]]) -> Tensor:
        """This rank's part [B, s] of whole rows [S]."""
        layout = layout_of(self._preset)
        parts = [layout.cut(row, self._mesh.sp_rank) for row in rows]
        return torch.from_numpy(np.stack(parts)).to(self._engine.device)

    def _loss(self, batch: Batch) -> float:
        """This rank's loss of one micro-step."""
        loss = float(self._engine.forward_backward(batch, 1))
        self._num_done += 1
        if self._num_done % self._preset.accumulation == 0:
            self._engine.optimizer_step(0.0)
        return loss


def longest_document(pack: Pack) -> tuple[Bools, str]:
    """The longest document but the last, so that others follow it."""
    borders = [*pack.doc_starts.tolist(), pack.num_tokens]
    number = int(np.argmax(np.diff(borders)[:-1]))
    position = np.arange(len(pack.tokens))
    return (position >= borders[number]) & (position < borders[number + 1]), f"document {number + 1}"


def next_tokens(pack: Pack) -> npt.NDArray[np.int64]:
    """Every real position's next token, int64 [S], also where the data set has no label there."""
    labels = np.full(len(pack.tokens), IGNORE_INDEX, np.int64)
    labels[: pack.num_tokens - 1] = pack.tokens[1 : pack.num_tokens]
    return labels


def _kept(labels: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, labels, torch.full_like(labels, IGNORE_INDEX))


def _step_with_documents(preset: Preset, data: PackedDataset) -> int | None:
    """First step in whose first micro-step every pack holds another document besides the one changed."""
    first = preset.dp * preset.training.micro_batch
    for step in range(preset.measure.steps):
        begin = step * preset.packs_per_step
        if all(len(data.pack(index).doc_starts) > 1 for index in range(begin, begin + first)):
            return step
    return None
