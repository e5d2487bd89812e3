"""How many tiles ALST's tiled functions may be told to cut; pure."""

from __future__ import annotations

import math


def num_tiles(tokens: int, tile: int) -> int:
    """Into how many tiles of at most `tile` tokens TiledMLP is told to cut, such that torch.chunk obeys.

    Five tokens asked for in four chunks come in three, and TiledMLP, which waits for the fourth, then
    never releases the weights' gradients.
    """
    size = math.ceil(tokens / math.ceil(tokens / tile))
    return math.ceil(tokens / size)
