"""Traces of one run, or from anywhere, to one profile; several files in several processes."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.hotspots import Profile
from tgsbench.system.cores import free_cores
from tgsbench.traces.combine import combine
from tgsbench.traces.hotspots import RankTrace, analyse_rank

_PARALLEL_BYTES: Final = 20 << 20
"""Below this much per file a second process costs more than it gains."""


def analyse(paths: Sequence[Path], source: str, num_processes: int | None = None) -> Profile:
    """Analyse the traces of some ranks together.

    Raises TgsError when a file is no whole trace, with the file's name.
    """
    found = _each(list(paths), num_processes)
    return combine(found, source)


def trace_files(folder: Path) -> list[Path]:
    """Traces in a folder and below, by name; TgsError when there is none."""
    found = sorted(
        path
        for path in folder.rglob("*.json*")
        if path.name.endswith(_TRACE) and not _is_hidden(path, folder)
    )
    if not found:
        raise TgsError(
            f"no trace in {folder}",
            hint="capture one: tgsbench run --preset NAME --profile hotspots",
            exit_code=ExitCode.BAD_INPUT,
        )
    return found


_TRACE: Final = (".pt.trace.json", ".pt.trace.json.gz")


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _each(paths: list[Path], num_processes: int | None) -> list[RankTrace]:
    wanted = num_processes or _worthwhile(paths)
    if wanted <= 1 or len(paths) == 1:
        return [_without_gc(path, index) for index, path in enumerate(paths)]
    with ProcessPoolExecutor(min(wanted, len(paths)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_without_gc, paths, range(len(paths))))


def _worthwhile(paths: list[Path]) -> int:
    try:
        mean = sum(path.stat().st_size * (10 if path.suffix == ".gz" else 1) for path in paths) / len(paths)
    except OSError:
        return 1
    return free_cores() if mean > _PARALLEL_BYTES else 1


def _without_gc(path: Path, index: int) -> RankTrace:
    """The collector would walk a million events in vain (they hold no cycles): 20 % of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return analyse_rank(path, index)
    finally:
        if was_on:
            gc.enable()
