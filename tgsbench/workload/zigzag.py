"""Which parts of a sequence each sequence-parallel rank holds, and what a ring step attends to.

A ring of r cuts a sequence into 2·r chunks; its member i holds chunks i and 2·r - 1 - i side by side, an
early and a late one, so that causal work is the same for all (so was Llama 3 trained: Dubey et al. 2024,
§3.3.2; zhuzilin/ring-flash-attention). The Ulysses ranks of a member share these tokens in order.
At step t a member meets the keys of member j = i - t: its own causally, those of earlier members (j < i) with
all its queries and their first chunk, those of later ones with its second chunk's queries. A document mask
leaves one rectangle of each step, since at most one document reaches from one chunk into a later one.

Without a ring, a sequence whose chunks a rank takes one after the other (Yao et al. 2024, arXiv 2408.16978)
is cut into these first, and each chunk among all ranks. So a chunk is one stretch of the sequence once its
heads are traded, its queries see the keys of earlier chunks alone, and no pair of chunks is met twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tgsbench.schema.preset import Preset

Item = TypeVar("Item", bound=np.generic)


class SeenBlock(NamedTuple):
    """Queries that see some keys; positions in what a ring member holds."""

    q_begin: int
    q_end: int
    k_begin: int
    k_end: int
    left: int = -1
    """The last query sees so many keys before the last one, others as many places earlier; -1: all."""

    def moved(self, offset: int) -> SeenBlock:
        """The same block where a row begins at `offset`."""
        q_begin, q_end, k_begin, k_end = (edge + offset for edge in self[:4])
        return SeenBlock(q_begin, q_end, k_begin, k_end, self.left)


class Layout(NamedTuple):
    """How one sequence lies over sp = ulysses · ring ranks.

    2 · ring and sp · sequence_chunks divide its length.
    """

    seq_len: int
    sp: int = 1
    ring: int = 1
    sequence_chunks: int = 1
    """Chunks that every rank takes a part of and all take one after the other; 1 with a ring."""

    @property
    def ulysses(self) -> int:
        """Ranks that share a ring member's tokens, neighbours."""
        return self.sp // self.ring

    @property
    def chunk(self) -> int:
        """Tokens of a chunk."""
        return self.seq_len // (2 * self.ring)

    def chunks(self, member: int) -> tuple[int, int]:
        """Numbers of the two chunks of a ring member."""
        return member, 2 * self.ring - 1 - member

    def pieces(self, sp_rank: int) -> list[range]:
        """Positions that a rank holds, in the order in which it holds them."""
        if self.sequence_chunks > 1 and self.sp > 1:
            return self._strips(sp_rank)
        member, place = divmod(sp_rank, self.ulysses)
        size = self.seq_len // self.sp
        begin, end = place * size, (place + 1) * size
        first, last = (number * self.chunk for number in self.chunks(member))
        early = range(first + begin, first + min(end, self.chunk))
        late = range(last + max(begin, self.chunk) - self.chunk, last + end - self.chunk)
        parts = [part for part in (early, late) if part]
        if len(parts) == 2 and early.stop == late.start:
            return [range(early.start, late.stop)]
        return parts

    def sequence_chunk(self, index: int) -> range:
        """Positions of a chunk of all ranks."""
        size = self.seq_len // self.sequence_chunks
        return range(index * size, (index + 1) * size)

    def _strips(self, sp_rank: int) -> list[range]:
        size = self.seq_len // (self.sequence_chunks * self.sp)
        begins = (self.sequence_chunk(index).start + sp_rank * size for index in range(self.sequence_chunks))
        return [range(begin, begin + size) for begin in begins]

    def cut(self, row: npt.NDArray[Item], sp_rank: int) -> npt.NDArray[Item]:
        """A rank's part [S/sp, …] of a whole row [S, …]."""
        return np.concatenate([row[part.start : part.stop] for part in self.pieces(sp_rank)])

    def join(self, parts: Sequence[npt.NDArray[Item]]) -> npt.NDArray[Item]:
        """The whole row [S, …] of every rank's part: what `cut` has taken apart."""
        held = [self.cut(np.arange(self.seq_len), rank) for rank in range(self.sp)]
        return np.concatenate(parts)[np.argsort(np.concatenate(held))]

    def source(self, member: int, step: int) -> int:
        """Ring member whose keys `member` meets at a step."""
        return (member - step) % self.ring

    def own_borders(self, borders: Sequence[int], member: int, window: int = 0) -> list[int]:
        """Borders of one row's documents (0 … S) as they lie in a ring member: 0 … 2 · chunk.

        A document that leaves the first chunk and reaches into the second, over all that lies between, goes
        on without a border, unless a window counts what lies between.
        """
        first, last = (number * self.chunk for number in self.chunks(member))
        inside = {0, 2 * self.chunk}
        inside |= {edge - first for edge in borders if first < edge < first + self.chunk}
        inside |= {edge - last + self.chunk for edge in borders if last < edge < last + self.chunk}
        if window or _document(borders, first + self.chunk - 1) != _document(borders, last):
            inside.add(self.chunk)
        return sorted(inside)

    def block(self, borders: Sequence[int], member: int, step: int) -> SeenBlock | None:
        """What a member's queries see of the keys that it meets at a step after the first; None: nothing."""
        other = self.source(member, step)
        seen = self._earlier if other < member else self._later
        return seen(borders, member, other)

    def window_blocks(self, borders: Sequence[int], member: int, step: int, window: int) -> list[SeenBlock]:
        """The same under a window of so many tokens; at step 0 what the late chunk sees of the early one."""
        other, found = self.source(member, step), []
        for q_place, query in enumerate(self.chunks(member)):
            for k_place, key in enumerate(self.chunks(other)):
                if key < query and (seen := self._chunks(borders, query, key, window)):
                    at_q, at_k = (q_place - query) * self.chunk, (k_place - key) * self.chunk
                    edges = (seen[0] + at_q, seen[1] + at_q, seen[2] + at_k, seen[3] + at_k)
                    found.append(SeenBlock(*edges, seen.left))
        return found

    def _chunks(self, borders: Sequence[int], query: int, key: int, window: int) -> SeenBlock | None:
        """What queries of one chunk see of an earlier one's keys, in positions of the sequence."""
        queries, keys = (range(at * self.chunk, (at + 1) * self.chunk) for at in (query, key))
        return seen_of(borders, queries, keys, window)

    def _earlier(self, borders: Sequence[int], member: int, other: int) -> SeenBlock | None:
        """All queries, keys of the other's first chunk: the document at that chunk's end."""
        chunk = self.chunk
        begin, end = _document(borders, (other + 1) * chunk - 1)
        queries = sum(min(chunk, max(0, end - number * chunk)) for number in self.chunks(member))
        return SeenBlock(0, queries, max(0, begin - other * chunk), chunk) if queries else None

    def _later(self, borders: Sequence[int], member: int, other: int) -> SeenBlock | None:
        """Queries of the second chunk, all keys: the document at that chunk's beginning."""
        chunk, last = self.chunk, self.chunks(member)[1] * self.chunk
        begin, end = _document(borders, last)
        keys = sum(min(chunk, max(0, (number + 1) * chunk - begin)) for number in self.chunks(other))
        return SeenBlock(chunk, chunk + min(chunk, end - last), 2 * chunk - keys, 2 * chunk) if keys else None


def layout_of(preset: Preset) -> Layout:
    """How a preset's sequences lie over its ranks."""
    chunks = preset.engine.sequence_chunks
    return Layout(preset.workload.seq_len, preset.parallel.sp, preset.ring, chunks)


def seen_of(borders: Sequence[int], queries: range, keys: range, window: int = 0) -> SeenBlock | None:
    """What queries see of keys that all come before them, in positions of the sequence; 0: no window."""
    begin, end = _document(borders, keys.stop - 1)
    q_end, k_begin = min(queries.stop, end), max(keys.start, begin)
    if window:
        q_end, k_begin = min(q_end, keys.stop + window - 1), max(k_begin, queries.start - window + 1)
    if q_end <= queries.start or keys.stop <= k_begin:
        return None
    sees_all = not window or q_end - window <= k_begin
    left = -1 if sees_all else keys.stop - q_end + window - 1
    return SeenBlock(queries.start, q_end, k_begin, keys.stop, left)


def _document(borders: Sequence[int], position: int) -> tuple[int, int]:
    """Where the document of a position begins and ends."""
    index = bisect_right(borders, position)
    return int(borders[index - 1]), int(borders[index])
