"""Tokenised documents as two flat NumPy buffers, and the shuffled stream made of them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TOKEN_BITS = np.int32(0x7FFFFFFF)
LABEL_BIT = np.int32(-0x80000000)
"""Sign bit of a coded token: this token is a training target. One buffer instead of two halves the
bytes that shuffling has to move."""

# Documents gathered at once: about 3 M Alpaca tokens, so that index arrays stay under 100 MB.
_BLOCK = 32_768
_BLOCK_TOKENS = 4 << 20
"""At most, but for a single document that is longer."""


@dataclass(frozen=True)
class Documents:
    """Documents one after another: `coded` int32 [N] tokens with LABEL_BIT, `starts` int64 [n + 1]."""

    coded: Int32
    starts: Int64

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.starts) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.starts[-1])

    @property
    def lengths(self) -> Int64:
        """Tokens of each document, int64 [n]."""
        return np.diff(self.starts)


def tokens_of(coded: Int32) -> Int32:
    """Token ids without the label bit."""
    return np.bitwise_and(coded, TOKEN_BITS)


def starts_of(lengths: npt.NDArray[np.integer]) -> Int64:
    """Offsets [n + 1] of documents of these lengths laid one after another."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def from_parts(tokens: Int32, lengths: Int64, num_ignored: Int64, num_labels: Int64) -> Documents:
    """Mark in each document the `num_labels` tokens that follow its first `num_ignored` as targets."""
    rest = lengths - num_ignored - num_labels
    runs = np.stack([num_ignored, num_labels, rest], axis=1).ravel()
    pattern = np.tile(np.array([0, LABEL_BIT, 0], np.int32), len(lengths))
    return Documents(tokens | np.repeat(pattern, runs), starts_of(lengths))


def epoch_order(num_documents: int, concat: int, seed: int) -> Int64:
    """Shuffled order of the corpus repeated `concat` times, int64 [num_documents · concat]."""
    order = np.random.default_rng(seed).permutation(num_documents * concat)
    return np.asarray(order % num_documents, np.int64)


def gather(documents: Documents, order: Int64) -> Documents:
    """Lay the documents out in a new order."""
    starts = starts_of(documents.lengths[order])
    parts = list(gathered(documents, order, documents.lengths))
    return Documents(np.concatenate(parts) if parts else np.zeros(0, np.int32), starts)


def gathered(documents: Documents, order: Int64, sizes: Int64) -> Iterator[Int32]:
    """Coded tokens of the documents in a new order, block by block: the first `sizes[d]` of document d."""
    lengths = sizes[order]
    starts = starts_of(lengths)
    first = 0
    while first < len(order):
        full = int(np.searchsorted(starts, starts[first] + _BLOCK_TOKENS, side="right")) - 1
        last = min(max(full, first + 1), first + _BLOCK, len(order))
        begin, end = int(starts[first]), int(starts[last])
        index = np.repeat(documents.starts[order[first:last]] - starts[first:last], lengths[first:last])
        index += np.arange(begin, end)
        yield np.take(documents.coded, index, mode="clip") if end > begin else np.zeros(0, np.int32)
        forget_pages(documents.coded)
        first = last


def forget_pages(array: npt.NDArray[Any]) -> None:
    """Give back the memory that reading a mapped array has taken; the disk's cache keeps what is read again.

    Mapped pages count as a process's own, and a corpus would be all of them.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def flatten(chunks: Sequence[Sequence[int]]) -> tuple[Int32, Int64]:
    """Tokens and lengths of encoded texts."""
    lengths = np.fromiter((len(chunk) for chunk in chunks), np.int64, len(chunks))
    total = int(lengths.sum())
    return np.fromiter((t for chunk in chunks for t in chunk), np.int32, total), lengths
