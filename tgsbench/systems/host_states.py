"""How optimizer states that wait on the host pass the device."""

from __future__ import annotations

PIECE_VALUES = 1 << 26
"""Of a shard, at most so many at once: 256 MiB of each tensor are 5 ms at 50 GB/s, in which nothing waits for
a launch."""
PIECES_AT_ONCE = 2
"""One on its way in while another is on its way out."""
