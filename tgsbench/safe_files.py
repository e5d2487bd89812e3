"""Open files of a folder that strangers may have written: regular files only, never a path outside."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError


def open_regular(path: Path, follow: bool = False) -> int:
    """Descriptor for reading a regular file; the caller closes it.

    Raises OSError for a FIFO, a device or a folder, and unless `follow` for a symbolic link: a link could
    leave the run folder, a FIFO would block for ever, /dev/zero never ends.
    """
    no_link = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | no_link | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def read_regular(path: Path, max_bytes: int, follow: bool = False) -> bytes:
    """Content of a regular file; OSError when it is none or holds more than `max_bytes`."""
    fd = open_regular(path, follow)
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


_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def utf8(path: str | os.PathLike[str]) -> str:
    """A path, or a word with one in it, as text that any document can hold: bytes that are no UTF-8 become �.

    A folder's name may be in another encoding than the locale's; Python keeps such bytes as lone surrogates.
    """
    return os.fsencode(path).decode("utf-8", "replace")


def printable(text: str) -> str:
    """The text with control characters spelled out, line breaks and tabs excepted.

    Names and messages in a run folder may hold escape sequences that a terminal would obey.
    """
    return text.translate(_CONTROLS)
