"""A histogram of document lengths of the user's own: one length a line, or `length,count`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from tgsbench.errors import TgsError
from tgsbench.workload.blocks import bad_data
from tgsbench.workload.documents import Documents, Int64, from_parts

_MAX_LENGTH: Final = 1 << 30
_MAX_LINES: Final = 20_000_000
_MAX_LINE: Final = 200


class Histogram(NamedTuple):
    """Lengths in tokens, ascending, and how many documents have each; int64 [n] both."""

    lengths: Int64
    counts: Int64

    @property
    def mean(self) -> float:
        """Tokens of the average document."""
        return float((self.lengths * self.counts).sum() / self.counts.sum())


def of_lengths(lengths: Int64) -> Histogram:
    """The histogram of these lengths."""
    return Histogram(*np.unique(lengths, return_counts=True))


def read_histogram(path: Path) -> Histogram:
    """Read a histogram. Raises TgsError (BAD_DATA) that names the line which is none."""
    counts: dict[int, int] = {}
    try:
        with path.open("rb") as file:
            for number in range(1, _MAX_LINES + 2):
                line = file.readline(_MAX_LINE + 1)
                if not line:
                    break
                if number > _MAX_LINES or len(line) > _MAX_LINE:
                    raise _bad(f"{path}:{number}: too long for a histogram")
                _add(counts, line.decode("utf-8", "replace"), path, number)
    except OSError as error:
        raise _bad(f"{path}: {error.strerror or error}") from error
    if not counts:
        raise _bad(f"{path}: holds no length")
    lengths = np.array(sorted(counts), np.int64)
    return Histogram(lengths, np.array([counts[length] for length in lengths.tolist()], np.int64))


def write_histogram(histogram: Histogram, path: Path) -> None:
    """Write `length,count`, which `workload.lengths` reads. Raises TgsError when it cannot be written."""
    rows = zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True)
    text = "length,count\n" + "".join(f"{length},{count}\n" for length, count in rows)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise _bad(f"{path}: {error.strerror}") from error


def draw_histogram(histogram: Histogram, num_documents: int, vocab_size: int, seed: int) -> Documents:
    """Documents of lengths drawn with replacement, random tokens below `vocab_size`, all of them targets."""
    rng = np.random.default_rng(seed)
    share = histogram.counts / histogram.counts.sum()
    lengths = rng.choice(histogram.lengths, size=num_documents, p=share)
    tokens = rng.integers(min(3, vocab_size - 1), vocab_size, size=int(lengths.sum()), dtype=np.int32)
    return from_parts(tokens, lengths, np.zeros_like(lengths), lengths)


def _add(counts: dict[int, int], line: str, path: Path, number: int) -> None:
    cells = [cell.strip() for cell in line.lstrip("\ufeff").strip().split(",")]
    if cells == [""] or (number == 1 and not any(cell.isdecimal() for cell in cells)):
        return  # an empty line, or the names of the columns
    is_whole = all(cell.isascii() and cell.isdecimal() and len(cell) < 16 for cell in cells)
    if not is_whole or len(cells) > 2 or not 0 < int(cells[0]) <= _MAX_LENGTH:
        raise _bad(f"{path}:{number}: {line.strip()[:40]!r}: expected a length in tokens, or length,count")
    if count := int(cells[1]) if len(cells) == 2 else 1:
        counts[int(cells[0])] = counts.get(int(cells[0]), 0) + count


def _bad(msg: str) -> TgsError:
    return bad_data(msg, "a length a line, or length,count, as tgsbench data stats --histogram writes it")
