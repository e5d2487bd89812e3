"""Packs dealt by DeepSpeed's own `UlyssesSPDataLoaderAdapter`, in the order of every other engine.

Each rank reads every sp-th pack of its group whole; the adapter gathers sp packs, shifts their labels and
cuts them, so that sp micro-steps follow, each with all ranks on one pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPDataLoaderAdapter
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tgsbench.schema.preset import Preset
from tgsbench.training.attention.documents import documents
from tgsbench.training.engines.base import Batch
from tgsbench.training.engines.batches import Batches, StepCounts, joined_borders
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.workload import IGNORE_INDEX, PackedDataset, Shard, shard


class AdapterBatches(Batches):
    """What this rank trains on as the adapter deals it; counts what came out of the adapter."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, data: PackedDataset, device: torch.device) -> None:
        super().__init__(preset, mesh, data, device)
        loader: DataLoader[Any] = DataLoader(_OwnPacks(self), batch_size=None)
        self._adapter = UlyssesSPDataLoaderAdapter(loader, mesh.sp_rank, mesh.sp_group, mesh.sp, device)

    def batch(self, step: int, micro_step: int, fed: StepCounts) -> Batch:
        """The adapter's next shard; micro-steps must be asked for in order."""
        dealt = next(self._adapter)
        indices = self.indices(step, micro_step)
        for row, index in enumerate(indices):
            tokens, labels = dealt["input_ids"][row].numpy(), dealt["shift_labels"][row].numpy()
            self._count(tokens, labels, self._data.pack(index), fed)
        masked = self._preset.workload.document_mask
        return Batch(
            dealt["input_ids"].to(self._device),
            dealt["shift_labels"].to(self._device),
            dealt["position_ids"].to(self._device),
            documents(joined_borders([self._whole(i) for i in indices]), self._device) if masked else None,
        )

    def own_batches(self) -> Iterator[dict[str, Tensor]]:
        """Whole packs [B, S] that this rank puts in: micro-steps sp_rank, sp_rank + sp, …

        It does not end: the adapter gathers sp packs ahead, the last of which may never be trained.
        """
        micro = self._mesh.sp_rank
        while True:
            rows = [self._whole(index) for index in self._packs_of(micro)]
            yield {
                "input_ids": torch.from_numpy(np.stack([row.input_ids for row in rows])),
                "position_ids": torch.from_numpy(np.stack([row.position_ids for row in rows])),
                # The adapter shifts labels itself: each goes back to the token it is.
                "labels": torch.from_numpy(np.stack([_unshifted(row.labels) for row in rows])),
            }
            micro += self._mesh.sp

    def _whole(self, index: int) -> Shard:
        return shard(self._data.pack(index), 0, 1, self._preset.workload.document_mask)


class _OwnPacks(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, batches: AdapterBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self._batches.own_batches()


def _unshifted(labels: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full(1, IGNORE_INDEX, labels.dtype), labels[:-1]])
