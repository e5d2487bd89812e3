"""Where packs begin and end in the shuffled token stream.

Every packing rule here keeps the order of tokens, so a pack is a range of the stream and packing is a
computation on document offsets: no token is touched.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tgsbench.workload.documents import Int64


@dataclass(frozen=True)
class Bounds:
    """Packs as ranges of the stream: `starts` and `ends`, int64 [num_packs]; the rest is lost."""

    starts: Int64
    ends: Int64
    seq_len: int
    num_tokens: int
    """Tokens of the whole stream."""

    @property
    def num_packs(self) -> int:
        """How many packs there are."""
        return len(self.starts)

    @property
    def lengths(self) -> Int64:
        """Real tokens of each pack."""
        return self.ends - self.starts

    @property
    def num_full(self) -> int:
        """Packs without padding."""
        return int(np.count_nonzero(self.lengths == self.seq_len))

    @property
    def tokens_kept(self) -> int:
        """Tokens in packs."""
        return int(self.lengths.sum())

    @property
    def tokens_lost(self) -> int:
        """Tokens in no pack: the last carry of every worker."""
        return self.num_tokens - self.tokens_kept

    @property
    def tokens_padded(self) -> int:
        """Padding that fills the short packs."""
        return self.num_packs * self.seq_len - self.tokens_kept

    @property
    def mean_pack_tokens(self) -> float:
        """Real tokens of the average pack; 0 without packs."""
        return self.tokens_kept / self.num_packs if self.num_packs else 0.0


def carry_bounds(document_starts: Int64, seq_len: int) -> Bounds:
    """Cut the stream every `seq_len` tokens, as one worker that maps the corpus in one batch does.

    The tail is lost; a stream shorter than `seq_len` becomes one short pack.
    """
    return stock_bounds(document_starts, seq_len, max(1, len(document_starts) - 1), 1)


def stock_bounds(document_starts: Int64, seq_len: int, batch_size: int, num_proc: int) -> Bounds:
    """Pack as XTuner 0.2.0's Packer does under `datasets.map` (xtuner/dataset/utils.py).

    Each worker has a contiguous share of the documents and a carry. Per batch of documents, carry and
    batch form a buffer: its full chunks are emitted and the tail is carried, or else the whole short
    buffer is emitted as one short pack. Each worker's last carry is lost.
    """
    num_documents = len(document_starts) - 1
    starts: list[Int64] = []
    ends: list[Int64] = []
    for first, last in worker_shares(num_documents, num_proc):
        edges = np.append(np.arange(first, last, batch_size), last)
        cuts, emitted = _worker_cuts(document_starts[edges].tolist(), seq_len)
        starts.append(cuts)
        ends.append(emitted)
    joined = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in (starts, ends)]
    return Bounds(joined[0], joined[1], seq_len, int(document_starts[-1]))


def worker_shares(num_documents: int, num_proc: int) -> list[tuple[int, int]]:
    """Contiguous document ranges of the workers, as `datasets.map` deals them out."""
    num_proc = max(1, min(num_proc, num_documents))
    share, extra = divmod(num_documents, num_proc)
    firsts = [worker * share + min(worker, extra) for worker in range(num_proc + 1)]
    return list(itertools.pairwise(firsts))


def _worker_cuts(batch_edges: list[int], seq_len: int) -> tuple[Int64, Int64]:
    """Pack ranges of one worker; the loop is over its map batches, not over documents."""
    starts, ends = [], []
    begin = batch_edges[0]
    for end in batch_edges[1:]:
        num_full = (end - begin) // seq_len
        if num_full:
            edges = begin + np.arange(num_full + 1, dtype=np.int64) * seq_len
            starts.append(edges[:-1])
            ends.append(edges[1:])
            begin = int(edges[-1])
        elif end > begin:
            starts.append(np.array([begin], np.int64))
            ends.append(np.array([end], np.int64))
            begin = end
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(starts), np.concatenate(ends)
