"""Attention of a sequence chunk by chunk, keys and values of earlier chunks in host memory.

What a ring does over ranks is done over time: a chunk's queries meet their own keys causally, then those of
the chunks before it, block by block, the next one on its way from the host while one is used, and results
are merged by their log-sum-exp in fp32 (Yao et al. 2024, "Fully Pipelined Distributed Transformer",
arXiv 2408.16978). The backward takes the chunks from the last to the first, so that the gradient of a chunk's
keys, summed in fp32 on the host meanwhile, is whole when its own turn comes.

Layouts are those of `attention.blocks`: rows of a chunk laid end to end, T = B · S / chunks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tgsbench.training.attention.blocks import BLOCK_KERNELS, Saved
from tgsbench.training.attention.documents import PackDocuments, documents
from tgsbench.training.attention.ring import add_block, add_gradients, add_to_keys, row_borders
from tgsbench.training.parallel.offload import HostOffload
from tgsbench.workload.zigzag import Layout, SeenBlock, seen_of


class ChunkPlan(NamedTuple):
    """What the queries of one chunk see."""

    chunk: int
    own: PackDocuments
    """Documents of the chunk, or its rows."""
    earlier: tuple[tuple[int, tuple[SeenBlock, ...]], ...]
    """Chunks before it of which something is seen, and what: a block a row at most."""
    left: int
    """Keys before its own that a query sees in its document; -1: all."""


class TimeRing:
    """The chunks of one rank's sequences, and the plan of its current pack."""

    def __init__(self, layout: Layout, host: HostOffload, device: torch.device) -> None:
        self.num_chunks = layout.sequence_chunks
        self.host = host
        self.blocks = BLOCK_KERNELS[device.type]()
        self._layout, self._device = layout, device
        self._plans: dict[tuple[int, int], list[ChunkPlan]] = {}
        self._planned: PackDocuments | None = None

    def plans(self, docs: PackDocuments | None, num_rows: int, window: int) -> list[ChunkPlan]:
        """What each chunk sees in the current micro-step; planned once for all layers with this window."""
        if docs is not self._planned:
            self._plans.clear()
            self._planned = docs
        if (num_rows, window) not in self._plans:
            self._plans[num_rows, window] = [
                self._plan(docs, num_rows, window, chunk) for chunk in range(self.num_chunks)
            ]
        return self._plans[num_rows, window]

    def forward(
        self, plan: ChunkPlan, q: Tensor, own: Tensor, kept: Sequence[int], scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output [T, a, d] and log-sum-exp [a, T] of a chunk's queries.

        own [2, T, m, d]: its keys and values; `kept`: numbers of those of each chunk on the host.
        """
        coming = Coming(self.host, [[kept[chunk]] for chunk, _ in plan.earlier])
        out, lse = self.blocks.forward(q, own[0], own[1], scale, plan.own, plan.left)
        out = out.float()
        for (_, blocks), (here,) in zip(plan.earlier, coming, strict=True):
            for block in blocks:
                add_block(self.blocks, q, here, scale, block, (out, lse))
        return out.to(q.dtype), lse

    def backward(
        self,
        plan: ChunkPlan,
        grad: Tensor,
        saved: Saved,
        kept: Sequence[int],
        sums: list[int | None],
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Gradients in fp32 of a chunk's queries [T, a, d], and of its own keys and values [2, T, m, d].

        `sums`: numbers of what later chunks have given to the keys of each one; this one's share is added.
        """
        groups = [[kept[chunk], *_known(sums[chunk])] for chunk, _ in plan.earlier]
        coming = iter(Coming(self.host, [*groups, _known(sums[plan.chunk])]))
        grads = self.blocks.backward(grad, saved, scale, plan.own, plan.left)
        grad_q, of_own = grads[0].float(), torch.stack(grads[1:]).float()
        del grads
        for (chunk, blocks), (here, *before) in zip(plan.earlier, coming, strict=False):
            theirs = before.pop() if before else torch.zeros_like(here, dtype=torch.float32)
            for block in blocks:
                part = add_gradients(self.blocks, grad, saved, here, scale, block, grad_q)
                add_to_keys(theirs, [block], [part])
                del part
            self.give(sums, chunk, theirs)
            del theirs
        return grad_q, self.take(sums, plan.chunk, of_own, next(coming))

    def give(self, sums: list[int | None], chunk: int, total: Tensor) -> None:
        """Put a chunk's sum on the host in place of the one that was there."""
        for number in _known(sums[chunk]):
            self.host.release(number)
        sums[chunk] = self.host.keep(total)

    def take(self, sums: list[int | None], chunk: int, of_own: Tensor, later: Sequence[Tensor]) -> Tensor:
        """The gradient of a chunk's keys: its own share and that of later chunks, if one sees it."""
        for number in _known(sums[chunk]):
            self.host.release(number)
        sums[chunk] = None
        for total in later:
            of_own += total
        return of_own

    def _plan(self, docs: PackDocuments | None, num_rows: int, window: int, chunk: int) -> ChunkPlan:
        length, here = self._layout.seq_len, self._layout.sequence_chunk(chunk)
        edges = range(0, num_rows * length + 1, length) if docs is None else docs.on_host.tolist()
        by_row = [row_borders(edges, row * length, length) for row in range(num_rows)]
        own = [0]
        for row, borders in enumerate(by_row):
            inside = [edge - here.start for edge in borders if here.start < edge < here.stop]
            own += [row * len(here) + edge for edge in (*inside, len(here))]
        own_documents = documents(torch.tensor(own, dtype=torch.int32), self._device)
        seen = ((before, self._seen(by_row, here, before, window)) for before in range(chunk))
        return ChunkPlan(
            chunk, own_documents, tuple((at, blocks) for at, blocks in seen if blocks), window - 1
        )

    def _seen(
        self, by_row: Sequence[list[int]], here: range, before: int, window: int
    ) -> tuple[SeenBlock, ...]:
        """Blocks of an earlier chunk that the queries of this one see, as both lie in their chunks."""
        keys = self._layout.sequence_chunk(before)
        blocks = []
        for row, borders in enumerate(by_row):
            if seen := seen_of(borders, here, keys, window):
                at_q, at_k = row * len(here) - here.start, row * len(keys) - keys.start
                edges = (seen[0] + at_q, seen[1] + at_q, seen[2] + at_k, seen[3] + at_k)
                blocks.append(SeenBlock(*edges, seen.left))
        return tuple(blocks)


class Coming:
    """Groups of tensors from the host, the next group under way while one is used."""

    def __init__(self, host: HostOffload, groups: Sequence[Sequence[int]]) -> None:
        self._host, self._groups = host, groups
        self._start(0)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for index, group in enumerate(self._groups):
            here = [self._host.bring(number) for number in group]
            self._start(index + 1)
            yield here

    def _start(self, index: int) -> None:
        for number in itertools.chain(*self._groups[index : index + 1]):
            self._host.ahead(number)


def _known(number: int | None) -> list[int]:
    return [] if number is None else [number]
