"""Half-written traces: a rank that was killed, or a full disk, leaves them in a run's staging folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

_FULL_BYTES: Final = 1 << 20


def discard_partial(path: Path) -> tuple[bool, float]:
    """Remove what a failed export left beside `path`; was the disk full, and how many MiB were there."""
    folder = next(folder for folder in path.parents if folder.exists())
    is_full, num_bytes = shutil.disk_usage(folder).free < _FULL_BYTES, 0
    for partial in path.parent.glob(f".{path.name}*"):
        num_bytes += partial.lstat().st_size
        partial.unlink(missing_ok=True)
    return is_full, num_bytes / 2**20


def discard_partials(staging: Path) -> None:
    """Remove all half-written traces of a run; its ranks have ended."""
    for partial in staging.glob(".*"):
        if partial.is_file() or partial.is_symlink():
            partial.unlink(missing_ok=True)
