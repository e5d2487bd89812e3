"""At which steps of a ring its members need each other's keys, by the window of a layer."""

from __future__ import annotations

from functools import lru_cache


def is_cut(seq_len: int, window: int) -> bool:
    """Does a window (0: none) hide anything of a sequence?"""
    return 0 < window < seq_len


@lru_cache(maxsize=256)
def met_steps(seq_len: int, ring: int, window: int = 0) -> tuple[int, ...]:
    """Steps t at which a member needs keys of the one t places before it.

    All from 1 to ring - 1 where a query sees everything before it (window 0). A window reaches back over some
    chunks alone, of the 2 · ring that a sequence is cut into; member i holds those numbered i and
    2 · ring - 1 - i (workload/zigzag.py).
    """
    if not is_cut(seq_len, window):
        return tuple(range(1, ring))
    num_chunks = 2 * ring
    reach = -(-(window - 1) // (seq_len // num_chunks))
    steps = {
        (_member(query, ring) - _member(query - back, ring)) % ring
        for query in range(num_chunks)
        for back in range(1, min(reach, query) + 1)
    }
    return tuple(sorted(steps - {0}))


def _member(chunk: int, ring: int) -> int:
    return min(chunk, 2 * ring - 1 - chunk)


def messages(seq_len: int, ring: int, window: int = 0) -> tuple[int, int]:
    """Messages of keys and values in a layer's forward (the backward's are as many), and of their gradients.

    Without a window keys pass from member to member, and their gradients all the way round; with one they go
    straight to whoever needs them, and gradients straight back.
    """
    if ring == 1:
        return 0, 0
    steps = len(met_steps(seq_len, ring, window))
    return (steps, steps) if is_cut(seq_len, window) else (steps, ring)
