"""Arrays kept on disk between runs, memory-mapped, safe against two writers and torn writes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tgsbench.system.user_cache import user_cache

Arrays = Mapping[str, npt.NDArray[Any]]
_FORMAT = 1
_MAX_ENTRIES = 16
"""Entries kept of each kind, newest first: at most 121 MB each for the shipped presets."""


@dataclass(frozen=True)
class Cached:
    """Arrays of one entry; `problem` says why they could not be kept on disk."""

    arrays: Arrays
    hit: bool
    problem: str = ""


def entry_path(kind: str, key: Mapping[str, object]) -> Path:
    """Folder of the entry for this key."""
    text = json.dumps({**key, "format": _FORMAT}, sort_keys=True)
    return user_cache() / kind / hashlib.sha256(text.encode()).hexdigest()[:24]


def load_or_build(
    kind: str, key: Mapping[str, object], names: tuple[str, ...], build: Callable[[], Arrays]
) -> Cached:
    """Load an entry's arrays, or build and keep them.

    While one process builds an entry, others that want it wait and then load it. A folder that cannot
    be written costs the entry, not the run.
    """
    path = entry_path(kind, key)
    found = _load(path, names)
    if found is not None:
        return Cached(found, hit=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        return Cached(build(), hit=False, problem=f"{path.parent}: {error.strerror}")
    with _locked(path.with_suffix(".lock")):
        found = _load(path, names)
        if found is not None:
            return Cached(found, hit=True)
        return _keep(path, names, build())


def _keep(path: Path, names: tuple[str, ...], arrays: Arrays) -> Cached:
    staging = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
        for name in names:
            np.save(staging / f"{name}.npy", arrays[name], allow_pickle=False)
        if path.exists():  # damaged, or else it would have been loaded
            shutil.rmtree(path, ignore_errors=True)
        staging.rename(path)
    except OSError as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        found = _load(path, names)
        problem = "" if found is not None else f"{path.parent}: {error.strerror}"
        return Cached(found or arrays, hit=False, problem=problem)
    _prune(path.parent)
    return Cached(_load(path, names) or arrays, hit=False)


def _load(path: Path, names: tuple[str, ...]) -> Arrays | None:
    try:
        arrays = {n: np.load(path / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
    except (OSError, ValueError, EOFError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return arrays


def _prune(folder: Path) -> None:
    """Drop the entries unused for longest; a process that has one mapped keeps its pages."""
    entries = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for path in entries[_MAX_ENTRIES:]:
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; on a file system without locks the atomic rename alone keeps order."""
    with path.open("w") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
