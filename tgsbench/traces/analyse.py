"""Traces of one run, or from anywhere, to one profile; several files in several processes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tgsbench.schema.hotspots import Profile
from tgsbench.system.cores import free_cores
from tgsbench.traces.combine import combine
from tgsbench.traces.files import expanded, ranks_of
from tgsbench.traces.hotspots import RankTrace, analyse_rank

_PARALLEL_BYTES: Final = 20 << 20
"""Below this much per file a second process costs more than it gains."""


def analyse(
    paths: Sequence[Path],
    source: str,
    num_processes: int | None = None,
    on_read: Callable[[int], None] = lambda got: None,
) -> Profile:
    """Analyse the traces of some ranks together; `on_read` is told of unpacked bytes as they are read.

    Raises TgsError when a file is no whole trace, with the file's name.
    """
    paths = [trace for path in paths for trace in expanded(path)]
    found = _each(paths, num_processes, on_read)
    return combine(found, source)


def _each(paths: list[Path], num_processes: int | None, on_read: Callable[[int], None]) -> list[RankTrace]:
    wanted = num_processes or _worthwhile(paths)
    if wanted <= 1 or len(paths) == 1:
        pairs = zip(paths, ranks_of(paths), strict=True)
        return [_without_gc(path, rank, on_read) for path, rank in pairs]
    with ProcessPoolExecutor(min(wanted, len(paths)), mp_context=get_context("spawn")) as pool:
        found = []
        for trace in pool.map(_without_gc, paths, ranks_of(paths)):
            on_read(trace.profile.num_bytes)
            found.append(trace)
        return found


def _worthwhile(paths: list[Path]) -> int:
    try:
        mean = sum(
            path.stat().st_size * (10 if path.suffix in (".gz", ".zst") else 1) for path in paths
        ) / len(paths)
    except OSError:
        return 1
    return free_cores() if mean > _PARALLEL_BYTES else 1


def _without_gc(path: Path, rank: int, on_read: Callable[[int], None] = lambda got: None) -> RankTrace:
    """The collector would walk a million events in vain (they hold no cycles): 20 % of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return analyse_rank(path, rank, on_read)
    finally:
        if was_on:
            gc.enable()
