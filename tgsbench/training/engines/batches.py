"""Which packs a rank trains on in each micro-step, and their shards on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tgsbench.schema.preset import Preset
from tgsbench.training.attention.documents import documents
from tgsbench.training.engines.base import Batch
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.workload import Pack, PackedDataset, Shard, shard
from tgsbench.workload.zigzag import layout_of


@dataclass
class StepCounts:
    """What a rank was fed in one optimizer step, counted from the shards themselves."""

    tokens: int = 0
    """Real ones."""
    labels: int = 0


class Batches:
    """Deals packs to dp groups in order and cuts them for this rank."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, data: PackedDataset, device: torch.device) -> None:
        self._preset = preset
        self._mesh = mesh
        self._data = data
        self._device = device

    def num_labels(self, step: int) -> int:
        """Labels of a whole optimizer step, over all ranks; every rank can tell without asking."""
        per_step = self._preset.packs_per_step
        return sum(self._data.num_labels(i) for i in range(step * per_step, (step + 1) * per_step))

    def batch(self, step: int, micro_step: int, fed: StepCounts) -> Batch:
        """This rank's shard of one micro-step; what it holds is added to `fed`."""
        rows = [self._shard(index, fed) for index in self.indices(step, micro_step)]
        return Batch(
            self._stack([row.input_ids for row in rows]),
            self._stack([row.labels for row in rows]),
            self._stack([row.position_ids for row in rows]),
            documents(joined_borders(rows), self._device) if self._preset.workload.document_mask else None,
        )

    def indices(self, step: int, micro_step: int) -> range:
        """Packs of this rank's dp group in one micro-step, counted from the run's first."""
        return self._packs_of(step * self._preset.accumulation + micro_step)

    def _packs_of(self, micro: int) -> range:
        """Packs of this rank's dp group in micro-step `micro`, counted from the run's first."""
        size = self._preset.training.micro_batch
        first = (micro * self._mesh.dp + self._mesh.dp_rank) * size
        return range(first, first + size)

    def _shard(self, index: int, fed: StepCounts) -> Shard:
        pack = self._data.pack(index)
        masked, mesh = self._preset.workload.document_mask, self._mesh
        part = shard(pack, mesh.sp_rank, mesh.sp, masked, mesh.ring, self._preset.engine.sequence_chunks)
        self._count(part.input_ids, part.labels, pack, fed)
        return part

    def _count(self, tokens: np.ndarray, labels: np.ndarray, pack: Pack, fed: StepCounts) -> None:
        """Add this rank's shard (tokens and labels [s]) of a pack to `fed`."""
        pieces = layout_of(self._preset).pieces(self._mesh.sp_rank)
        fed.tokens += sum(min(len(piece), max(0, pack.num_tokens - piece.start)) for piece in pieces)
        fed.labels += int(np.count_nonzero(labels >= 0))

    def _stack(self, rows: list[np.ndarray]) -> Tensor:
        tokens = torch.from_numpy(np.stack(rows)).to(torch.int64)
        if self._device.type != "cuda":
            return tokens.to(self._device)
        # From pageable memory the copy would wait until the device has done all that is queued.
        return tokens.pin_memory().to(self._device, non_blocking=True)


def joined_borders(rows: list[Shard]) -> Tensor:
    """Boundaries of several packs laid end to end."""
    length = int(rows[0].cu_seqlens[-1])
    parts = [row.cu_seqlens[:-1] + i * length for i, row in enumerate(rows)]
    return torch.from_numpy(np.concatenate([*parts, [len(rows) * length]]).astype(np.int32))
