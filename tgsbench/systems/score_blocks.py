"""How many queries of a layer with a window or sinks attend at once where no kernel has these."""

from __future__ import annotations

_MOST_QUERIES = 512
MOST_SCORE_BYTES = 1 << 27
"""Of the fp32 scores of a block."""


def queries_at_once(heads: int, length: int, window: int) -> int:
    """Queries of a block; `heads` are those of all rows of a batch, `window` is 0 without one."""
    row_bytes = 4 * heads * min(length, window + _MOST_QUERIES if window else length)
    most = max(window, 64) if window else _MOST_QUERIES
    return min(_MOST_QUERIES, most, max(16, MOST_SCORE_BYTES // row_bytes))


def score_bytes(heads: int, length: int, window: int) -> int:
    """fp32 scores of the largest block."""
    queries = min(length, queries_at_once(heads, length, window))
    return 4 * heads * queries * min(length, window + queries - 1 if window else length)
