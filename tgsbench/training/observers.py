"""What reached the model and the network of one rank, seen from outside the code that is being proved.

Token ids are read where the embedding takes them, targets where the loss head does, and reductions where
the process group does: below every engine, and after all packing, sharding and dealing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch._C._distributed_c10d import ProcessGroup
from torch.nn.modules.module import register_module_forward_pre_hook

from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import ShardRecord
from tgsbench.training.model.loss import LossHead
from tgsbench.training.witness import pack_ids
from tgsbench.workload import IGNORE_INDEX, PackedDataset
from tgsbench.workload.documents import Int64

_IN_PLACE = ("allreduce", "allreduce_coalesced")
_REDUCTIONS = (
    *_IN_PLACE, "reduce_scatter", "reduce_scatter_single", "_reduce_scatter_base",
    "reduce_scatter_tensor_coalesced",
)  # fmt: skip
_LEAST_GRADIENT = 64
"""Fewer numbers are a norm, a loss or a count, which any engine may reduce in any type."""


class ReductionMeter:
    """Writes down in which types gradients reach the process group's reductions."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        for name in _REDUCTIONS:
            if method := getattr(ProcessGroup, name, None):
                setattr(ProcessGroup, name, self._seen(method, name))

    def _seen(self, method: Any, name: str) -> Any:
        def seen(group: ProcessGroup, *args: Any, **kwargs: Any) -> Any:
            sent = args[0] if name in _IN_PLACE else args[1]
            for tensor in _tensors(sent):
                if tensor.is_floating_point() and tensor.numel() >= _LEAST_GRADIENT and group.size() > 1:
                    self.types.add(str(tensor.dtype).removeprefix("torch."))
            return method(group, *args, **kwargs)

        return seen


def _tensors(sent: Any) -> Iterator[Tensor]:
    if isinstance(sent, Tensor):
        yield sent
    else:
        for part in sent:
            yield from _tensors(part)


class InputRecorder:
    """Writes down every row that enters the model, until it is told to stop."""

    def __init__(self, rank: int) -> None:
        self.cuts: list[ShardRecord] = []
        self.step = 0
        self._rank = rank
        self._micro_step = 0
        self._tokens: Tensor | None = None
        self._handle = register_module_forward_pre_hook(self._look)

    def begin_step(self, step: int) -> None:
        """What comes now belongs to this optimizer step."""
        self.step, self._micro_step = step, 0

    def close(self) -> None:
        """See no more."""
        self._handle.remove()

    def _look(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding):
            self._tokens = args[0]
        elif isinstance(module, LossHead) and self._tokens is not None:
            self._write_down(self._tokens, args[1])
            self._tokens = None
            self._micro_step += 1

    def _write_down(self, tokens: Tensor, labels: Tensor) -> None:
        where = f"rank {self._rank}, step {self.step}, micro-step {self._micro_step}"
        for row_tokens, row_labels in zip(tokens.cpu().numpy(), labels.cpu().numpy(), strict=True):
            self.cuts.append(_cut(where, row_tokens, row_labels, len(row_tokens)))


def expected_shards(preset: Preset, data: PackedDataset, num_steps: int) -> list[ShardRecord]:
    """What all ranks together must be fed in `num_steps`, from the token stream and the pack borders alone.

    Neither the code that reads packs nor the one that shards them takes part.
    """
    return [
        cut for index in range(preset.packs_per_step * num_steps) for cut in _cuts_of(preset, data, index)
    ]


def _cuts_of(preset: Preset, data: PackedDataset, index: int) -> list[ShardRecord]:
    pack = pack_arrays(data, index % data.num_packs, preset.workload.document_mask)
    tokens, labels, num_tokens, _ = pack
    sp, size = preset.parallel.sp, preset.local_seq_len
    cuts = []
    for number, places in enumerate(_places(preset)):
        real = int(np.count_nonzero(places < num_tokens))
        cut = _cut(f"pack {index}, shard {number + 1} of {sp}", tokens[places], labels[places], real)
        cut.is_inner = bool(places[-1] < sp * size - 1)
        cuts.append(cut)
    return cuts


def _places(preset: Preset) -> Int64:
    """Positions of each shard, int64 [sp, s]: an early and a late chunk to each member of a ring.

    Where ranks take chunks one after the other, each holds a part of every chunk.
    """
    place, members = np.arange(preset.workload.seq_len, dtype=np.int64), preset.ring
    if members == 1:
        by_chunk = place.reshape(preset.engine.sequence_chunks, preset.parallel.sp, -1)
        return by_chunk.swapaxes(0, 1).reshape(preset.parallel.sp, -1)
    chunks = place.reshape(2 * members, -1)
    return np.stack([chunks[:members], chunks[::-1][:members]], axis=1).reshape(preset.parallel.sp, -1)


def pack_arrays(data: PackedDataset, index: int, document_mask: bool) -> tuple[Int64, Int64, int, list[int]]:
    """Tokens and shifted targets, int64 [S], number of real tokens, and document starts of one pack."""
    begin, ids = pack_ids(data, index)
    coded = np.asarray(data.stream.coded[begin : begin + len(ids)])
    tokens = np.pad(ids, (0, data.seq_len - len(ids)))
    targets = np.flatnonzero(coded[1:] < 0) + 1
    starts = data.stream.starts - begin
    if document_mask:
        targets = np.setdiff1d(targets, starts)
    labels = np.full(data.seq_len, IGNORE_INDEX, np.int64)
    labels[targets - 1] = tokens[targets]
    return tokens, labels, len(coded), [int(start) for start in starts if 0 < start < len(coded)]


def _cut(where: str, tokens: Int64, labels: Int64, num_tokens: int) -> ShardRecord:
    return ShardRecord(
        where=where,
        tokens=_digest(tokens),
        labels=_digest(labels),
        num_tokens=num_tokens,
        num_labels=int(np.count_nonzero(labels >= 0)),
        border=int(labels[-1]),
    )


def _digest(values: Int64) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values, np.int64).tobytes(), digest_size=8).hexdigest()
