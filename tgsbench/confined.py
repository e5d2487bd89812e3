"""Open files of a folder that strangers may have written: regular files only, never a path outside."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError


def open_regular(path: Path) -> int:
    """Descriptor for reading a regular file; the caller closes it.

    Raises OSError for a symbolic link, a FIFO, a device or a folder: a link could leave the run folder, a
    FIFO would block for ever, /dev/zero never ends.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Content of a regular file; OSError when it is none or holds more than `max_bytes`."""
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes", str(path))
    return data


def inside(root: Path, relative: str) -> Path:
    """Path of `relative` under `root`; TgsError when it is absolute, climbs out or is linked outside."""
    path = root / relative
    base = root.resolve()
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(base):
        raise TgsError(
            f"{relative!r} leaves the folder {root}",
            hint="the folder was not written by tgsbench as it is: read it with care",
            exit_code=ExitCode.BAD_INPUT,
        )
    return path
