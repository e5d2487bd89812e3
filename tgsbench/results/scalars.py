"""Scalars of a TensorBoard event file, as JSON lines that the readers of logs understand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install

_HEADER = struct.Struct("<QI")
_MOST_BYTES_OF_FIRST = 1 << 16


def is_event_file(data: bytes) -> bool:
    """Does it begin as TensorBoard's files do: a record of some bytes that holds "brain.Event"?"""
    if len(data) < _HEADER.size or data[:1] in b"{[":
        return False
    length, _ = _HEADER.unpack_from(data)
    return 0 < length < _MOST_BYTES_OF_FIRST and b"brain.Event:" in data[: _HEADER.size + length]


def as_json_lines(path: Path) -> str:
    """One object a step, with the tags as keys and the seconds since the first one as `_runtime`.

    Raises TgsError when the file is damaged, or when the package that reads it is missing.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ModuleNotFoundError as error:
        raise TgsError(
            "tensorboard is not installed: it reads its event files",
            hint=pip_install("profile"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    rows: dict[int, dict[str, Any]] = {}
    began: float | None = None
    try:
        for event in EventFileLoader(str(path)).Load():
            began = event.wall_time if began is None else began
            for value in event.summary.value:
                if value.tensor.float_val:
                    row = rows.setdefault(
                        event.step, {"_step": event.step, "_runtime": event.wall_time - began}
                    )
                    row[value.tag] = value.tensor.float_val[0]
    except Exception as error:
        raise TgsError(f"{path}: no whole event file: {error}", exit_code=ExitCode.BAD_INPUT) from error
    return "\n".join(json.dumps(row) for _, row in sorted(rows.items()))
