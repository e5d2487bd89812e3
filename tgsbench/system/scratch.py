"""Temporary folders, and what is said when there is no room for one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone afterwards. Raises TgsError (exit code 7) when none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        raise disk_full_error(tempfile.gettempdir(), error) from error
    with folder as name:
        yield Path(name)


def disk_full_error(where: str | Path, error: OSError) -> TgsError:
    """The error for a temporary folder that takes nothing."""
    return TgsError(
        f"cannot write {where}: {error.strerror}",
        hint="set TMPDIR to a folder with room",
        exit_code=ExitCode.STORE,
    )
