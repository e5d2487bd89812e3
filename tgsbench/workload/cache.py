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

from tgsbench.errors import ExitCode, TgsError
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


class ArrayWriter:
    """Writes an array of one dimension to NAME.npy, part by part; never all of it in memory."""

    def __init__(self, folder: Path, name: str, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._file = (folder / f"{name}.npy").open("wb")
        self.size = 0
        """Elements written so far."""
        self._head(0)
        self._data_at = self._file.tell()

    def append(self, part: npt.NDArray[Any]) -> None:
        """Write elements behind those that are there."""
        np.ascontiguousarray(part, self._dtype).tofile(self._file)
        self.size += part.size

    def close(self) -> None:
        """Say in the head how many there are."""
        self._file.seek(0)
        self._head(self.size)
        assert self._file.tell() == self._data_at, "numpy leaves room for any length in the head"
        self._file.close()

    def _head(self, size: int) -> None:
        settings = {"descr": self._dtype.str, "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(self._file, settings)


def load_or_stream(
    kind: str, key: Mapping[str, object], names: tuple[str, ...], write: Callable[[Path], None]
) -> Cached:
    """Load an entry's arrays, or let `write` put NAME.npy for each into a folder, and keep them.

    For arrays that are larger than memory should hold; else as `load_or_build`. Where nothing can be kept,
    they are written to a temporary folder and read from there into memory. Raises TgsError when no disk has
    room for them.
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
        return _unkept(names, write, f"{path.parent}: {error.strerror}")
    with _locked(path.with_suffix(".lock")):
        found = _load(path, names)
        if found is not None:
            return Cached(found, hit=True)
        try:
            _place(path, write)
        except OSError as error:
            return _unkept(names, write, f"{path.parent}: {error.strerror}")
    _prune(path.parent)
    return Cached(_load(path, names) or {}, hit=False)


def _unkept(names: tuple[str, ...], write: Callable[[Path], None], problem: str) -> Cached:
    try:
        with tempfile.TemporaryDirectory(prefix="tgsbench-") as folder:
            write(Path(folder))
            arrays = {name: np.load(Path(folder) / f"{name}.npy", allow_pickle=False) for name in names}
    except OSError as error:
        raise TgsError(
            f"tokens cannot be kept: {problem}; {tempfile.gettempdir()}: {error.strerror}",
            hint="set XDG_CACHE_HOME to a folder with room, four bytes a token",
            exit_code=ExitCode.STORE,
        ) from error
    return Cached(arrays, hit=False, problem=problem)


def _place(path: Path, write: Callable[[Path], None]) -> None:
    """Write an entry beside its place and move it there whole; whatever happens, no half of one is left."""
    staging = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    try:
        write(staging)
        if path.exists():  # damaged, or else it would have been loaded
            shutil.rmtree(path, ignore_errors=True)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _keep(path: Path, names: tuple[str, ...], arrays: Arrays) -> Cached:
    def write(folder: Path) -> None:
        for name in names:
            np.save(folder / f"{name}.npy", arrays[name], allow_pickle=False)

    try:
        _place(path, write)
    except OSError as error:
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
