"""Open files of a folder that strangers may have written: regular files only, never a path outside."""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError

_MAX_TOML = 1 << 20
"""A preset of a megabyte is none."""


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


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file; a broken one is a TgsError that names the file and line."""
    try:
        return tomllib.loads(read_regular(path, _MAX_TOML, follow=True).decode("utf-8"))
    except RecursionError as error:
        raise TgsError(f"{path}: nested too deeply", exit_code=ExitCode.BAD_PRESET) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TgsError(
            f"{path}: not valid TOML: {error}",
            hint="fix that line, or start again from `tgsbench presets show NAME`",
            exit_code=ExitCode.BAD_PRESET,
        ) from error
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror or error}", exit_code=ExitCode.BAD_PRESET) from error


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


def printable(text: str) -> str:
    """The text with control characters spelled out, line breaks and tabs excepted.

    Names and messages in a run folder may hold escape sequences that a terminal would obey.
    """
    return text.translate(_CONTROLS)
