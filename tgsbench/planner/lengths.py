"""How long the documents are that attention stays inside of, as far as a plan knows them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tgsbench.presets.data_names import is_own
from tgsbench.schema.preset import Workload

if TYPE_CHECKING:
    from tgsbench.workload.histogram import Histogram

ALPACA_ATTENDED_LEN = 140.0
"""Σ len² / Σ len over 5,000 Alpaca samples in the llama2_chat format under the Llama-2 vocabulary."""
OTHERS_LONGER = 10.0
"""Documents of data that nobody measured may be this many times as long as Alpaca's."""


class AttendedLength(NamedTuple):
    """Σ len² / Σ len of the pieces of documents in a pack: what attention sees of each token's sequence."""

    tokens: float
    longer: float = 1.0
    """How many times as long it may be."""
    note: str = ""
    """Where it is from, in words for a plan; empty without a document mask."""


def attended_length(workload: Workload) -> AttendedLength:
    """What attention sees: the whole pack, or documents of the lengths that are known.

    Raises TgsError for a file of lengths that cannot be read.
    """
    seq_len = float(workload.seq_len)
    if not workload.document_mask:
        return AttendedLength(seq_len)
    if workload.corpus == "lengths" and workload.lengths:
        tokens = _of_file(Path(workload.lengths).expanduser(), workload)
        return AttendedLength(tokens, note=f"{_NOTE} {tokens:,.0f} tokens, of {workload.lengths}")
    alpaca = min(seq_len, ALPACA_ATTENDED_LEN)
    note = f"{_NOTE} that of Alpaca samples, {alpaca:.0f} tokens"
    if workload.corpus != "pydoc" and not is_own(workload):
        return AttendedLength(alpaca, note=note)
    note += (
        f", for those of {workload.file or workload.corpus} are not known: tgsbench data stats --histogram"
    )
    return AttendedLength(alpaca, min(OTHERS_LONGER, seq_len / alpaca), f"{note} FILE measures them")


_NOTE = "attention length under the document mask:"


def _of_file(path: Path, workload: Workload) -> float:
    try:
        seen = path.stat().st_mtime_ns
    except OSError:
        seen = 0
    return _of_histogram(path, seen, workload.seq_len, workload.long_documents)


@lru_cache(maxsize=16)
def _of_histogram(path: Path, _seen: int, seq_len: int, long_documents: str) -> float:
    """A search asks for one file thousands of times; a file of another time is read anew."""
    from tgsbench.workload.histogram import read_histogram  # here, for it needs numpy

    return packed_length(read_histogram(path), seq_len, long_documents)


def packed_length(histogram: Histogram, seq_len: int, long_documents: str) -> float:
    """Expected Σ len² / Σ len of the pieces that packs of `seq_len` tokens cut documents into.

    Documents lie end to end and packs begin anywhere in them: one of l <= S tokens is cut with probability
    l / S, which leaves l² - l³ / 3S, and a longer one S·l - S² / 3. The whole pack where none is left.
    """
    import numpy as np

    lengths, counts = histogram.lengths.astype(float), histogram.counts.astype(float)
    if long_documents == "drop":
        counts = np.where(lengths <= seq_len, counts, 0.0)
    if long_documents == "cut":
        lengths = np.minimum(lengths, seq_len)
    squares = np.where(
        lengths <= seq_len, lengths**2 - lengths**3 / (3 * seq_len), seq_len * lengths - seq_len**2 / 3
    )
    total = float((counts * lengths).sum())
    return float((counts * squares).sum()) / total if total else float(seq_len)
