"""A pack's share of each sequence-parallel rank, and the sum that proves every token was fed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tgsbench.workload.documents import Int32, Int64
from tgsbench.workload.packs import Pack
from tgsbench.workload.zigzag import Layout

MODULUS = 2**61 - 1
_BLOCK = 2**15


@dataclass(frozen=True)
class Shard:
    """What one sp rank trains on: int64 [S/sp] each, and the whole pack's document borders."""

    input_ids: Int64
    labels: Int64
    position_ids: Int64
    cu_seqlens: Int32
    """Borders of the whole pack's documents, from 0 to S; padding is a document of its own."""


def shard(
    pack: Pack, sp_rank: int, sp: int, document_mask: bool, ring: int = 1, sequence_chunks: int = 1
) -> Shard:
    """Cut a pack for one rank; labels were shifted before, so that no target is lost at a cut.

    With a ring of `ring` members it holds an early and a late part, with `sequence_chunks` a part of each of
    them: see `workload.zigzag`.
    Positions restart with every document under a document mask, else they run from 0 to S - 1.
    """
    seq_len = len(pack.tokens)
    assert seq_len % sp == 0, "the preset's check guarantees that sp divides seq_len"
    layout = Layout(seq_len, sp, ring, sequence_chunks)
    cu_seqlens = document_borders(pack)
    positions = layout.cut(np.arange(seq_len, dtype=np.int64), sp_rank)
    if document_mask:
        own = np.searchsorted(cu_seqlens, positions, side="right") - 1
        positions -= cu_seqlens[own]
    return Shard(
        layout.cut(pack.tokens, sp_rank).astype(np.int64),
        layout.cut(pack.labels, sp_rank).astype(np.int64),
        positions,
        cu_seqlens,
    )


def document_borders(pack: Pack) -> Int32:
    """Cumulative lengths of the pack's documents, int32 [n + 1], ending in S."""
    seq_len = len(pack.tokens)
    ends = [pack.num_tokens] if pack.num_tokens == seq_len else [pack.num_tokens, seq_len]
    return np.concatenate([pack.doc_starts, np.array(ends, np.int32)])


def checksum(tokens: npt.NDArray[np.integer], offset: int) -> int:
    """Sum of (position + 1) · (token + 1) modulo 2^61 - 1 for tokens that begin at position `offset`.

    The sums of all shards add up (modulo 2^61 - 1) to the whole pack's. Exact for ids below 2^31:
    a block's weighted sum is below 2^15 · 2^15 · 2^31 = 2^61, and blocks are added as Python integers.
    """
    values = np.asarray(tokens, dtype=np.int64) + 1
    weights = np.arange(1, _BLOCK + 1, dtype=np.int64)
    total = 0
    for begin in range(0, len(values), _BLOCK):
        block = values[begin : begin + _BLOCK]
        inside = int(np.dot(block, weights[: len(block)]))
        total += (offset + begin) * int(block.sum()) + inside
    return total % MODULUS
