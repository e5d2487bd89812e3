"""Packs as the trainer reads them: tokens, shifted labels, document starts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tgsbench.schema import events
from tgsbench.workload.documents import TOKEN_BITS, Documents, Int32, Int64, forget_pages
from tgsbench.workload.packing import Bounds

IGNORE_INDEX = -100
"""Label of a position that has no target."""
PAD_TOKEN = 0
_FORGET_TOKENS = 32 << 20
"""Mapped at once while labels are counted: 128 MB."""


@dataclass(frozen=True)
class Pack:
    """One sequence of S tokens; labels are already shifted: labels[t] is the target of position t."""

    tokens: Int32
    labels: Int32
    doc_starts: Int32
    """Offsets of the documents in the pack; the first is 0, also where a document was cut."""
    num_tokens: int
    """Real tokens; the rest is padding."""


@dataclass(frozen=True)
class PackedDataset:
    """All packs of one epoch over a memory-mapped token stream."""

    stream: Documents
    bounds: Bounds
    document_mask: bool
    label_counts: Int64
    data: events.Data
    """What packing did, for the event and the result."""
    warnings: list[events.Warn] = field(default_factory=list)

    @property
    def num_packs(self) -> int:
        """Packs of one epoch."""
        return self.bounds.num_packs

    @property
    def seq_len(self) -> int:
        """Tokens of a pack, padding included."""
        return self.bounds.seq_len

    def num_labels(self, index: int) -> int:
        """Targets of pack `index` after shifting."""
        return int(self.label_counts[index % self.num_packs])

    def pack(self, index: int) -> Pack:
        """Read one pack; `index` wraps around as epochs do."""
        index %= self.num_packs
        begin, end = int(self.bounds.starts[index]), int(self.bounds.ends[index])
        num_tokens = end - begin
        coded = np.asarray(self.stream.coded[begin:end])
        # Written in place: temporaries of a 1M pack would double its time (4 MB of page faults each).
        tokens, labels = np.empty((2, self.seq_len), np.int32)
        np.bitwise_and(coded, TOKEN_BITS, out=tokens[:num_tokens])
        tokens[num_tokens:] = PAD_TOKEN
        labels[: num_tokens - 1] = tokens[1:num_tokens]
        np.copyto(labels[: num_tokens - 1], IGNORE_INDEX, where=coded[1:] >= 0)
        labels[num_tokens - 1 :] = IGNORE_INDEX
        doc_starts = _document_starts(self.stream.starts, begin, end)
        if self.document_mask:
            labels[doc_starts[1:] - 1] = IGNORE_INDEX
        return Pack(tokens, labels, doc_starts, num_tokens)


def count_labels(stream: Documents, bounds: Bounds, document_mask: bool) -> Int64:
    """Targets of every pack after shifting, int64 [num_packs].

    A pack's first token is no target (its position is in no pack), and under a document mask neither
    is a document's first token.
    """
    coded = np.asarray(stream.coded)
    counts = np.zeros(bounds.num_packs, np.int64)
    read_from = 0
    for index, (begin, end) in enumerate(zip(bounds.starts.tolist(), bounds.ends.tolist(), strict=True)):
        counts[index] = np.count_nonzero(coded[begin:end] < 0)
        if end - read_from > _FORGET_TOKENS:
            forget_pages(stream.coded)
            read_from = end
    if not bounds.num_packs:
        return counts
    no_target = bounds.starts[bounds.lengths > 0]
    if document_mask:
        no_target = np.union1d(no_target, stream.starts[:-1][stream.lengths > 0])
    pack = np.searchsorted(bounds.starts, no_target, side="right") - 1
    is_lost = (pack >= 0) & (no_target < bounds.ends[np.maximum(pack, 0)]) & (coded[no_target] < 0)
    np.subtract.at(counts, pack[is_lost], 1)
    return counts


def attended_len(stream: Documents, bounds: Bounds, document_mask: bool) -> float:
    """Keys that a token's attention spans, before the causal half: Σ len² / Σ len over what is attended.

    Under a document mask these are documents as packs cut them, else packs; padding does not count.
    """
    lengths = bounds.lengths
    if document_mask:
        edges = np.union1d(stream.starts, np.concatenate([bounds.starts, bounds.ends]))
        pack = np.searchsorted(bounds.starts, edges[:-1], side="right") - 1
        kept = (pack >= 0) & (edges[:-1] < bounds.ends[np.maximum(pack, 0)])
        lengths = np.diff(edges)[kept]
    total = int(lengths.sum())
    return float(np.square(lengths, dtype=np.float64).sum() / total) if total else 0.0


def _document_starts(starts: Int64, begin: int, end: int) -> Int32:
    first, last = np.searchsorted(starts, [begin, end], side="left")
    inside = np.asarray(starts[first:last]) - begin
    if not len(inside) or inside[0] != 0:
        inside = np.concatenate([np.zeros(1, np.int64), inside])
    # Not numpy.unique, whose first call imports numpy.ma: 17 ms in each rank.
    return inside[np.diff(inside, prepend=-1) > 0].astype(np.int32)
