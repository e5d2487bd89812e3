"""Locks of torch's extension builds: a build that was killed leaves one, and every later one waits for it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "glusterfs", "wekafs", "fuse.sshfs")
"""File systems on which the builder may be another machine's process."""
_LONGEST_BUILD_S = 3600.0


def remove_abandoned(folder: Path, say: Callable[[str], None]) -> None:
    """Remove the locks below `folder` that no process holds, and say which.

    torch's builder keeps its lock open while it compiles. On a shared disk, where the builder may run on
    another machine, only a lock older than an hour is taken for abandoned.
    """
    locks = [lock for lock in folder.glob("*/lock") if lock.is_file()]
    held = set(_open_files()) if locks else set()
    least_age_s = _LONGEST_BUILD_S if locks and _is_shared(folder) else 0.0
    for lock in locks:
        with contextlib.suppress(OSError):
            if str(lock.resolve()) not in held and time.time() - lock.stat().st_mtime >= least_age_s:
                lock.unlink()
                say(f"removed {lock}: the build that left it was killed, later ones would wait for it")


def _open_files() -> Iterator[str]:
    """Paths that processes of this user have open."""
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    yield os.readlink(entry.path)  # noqa: PTH115 - thousands of them


def _is_shared(folder: Path) -> bool:
    """Is it on a disk that other machines write to?"""
    path = str(folder.resolve())
    mounts = [m for m in psutil.disk_partitions(all=True) if path.startswith(m.mountpoint)]
    nearest = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return nearest is not None and nearest.fstype.startswith(_SHARED)
