"""A file of baselines: what presets reached on one machine, for `tgsbench gate` to hold new runs against."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.metrics.gate import LEAST_RUNS
from tgsbench.metrics.ratio import Interval
from tgsbench.results.compare import Row
from tgsbench.safe_files import harmless, read_regular, reason_of
from tgsbench.store.run_dir import unwritable, write_atomic

_MAX_BYTES: Final = 16 << 20
_SCHEMA: Final = 1
_LEAST_TGS: Final = 1e-9
_MOST_TGS: Final = 1e12
"""No machine is slower or faster; ratios of what lies between do not overflow."""


class Baselines(Struct, kw_only=True):
    """Rows by preset; each row's samples are the TGS of its runs."""

    schema: int = _SCHEMA
    rows: dict[str, Row] = {}


def load(path: Path) -> Baselines:
    """Read a file of baselines. Raises TgsError when it is missing, damaged or of a newer tgsbench."""
    try:
        found = harmless(msgspec.json.decode(read_regular(path, _MAX_BYTES, follow=True), type=Baselines))
    except FileNotFoundError as error:
        raise TgsError(
            f"no baselines at {path}",
            hint=f"tgsbench gate {path} PRESET --update measures them",
            exit_code=ExitCode.BAD_INPUT,
        ) from error
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise TgsError(
            f"{path} is no file of baselines: {reason_of(error)}", exit_code=ExitCode.BAD_INPUT
        ) from error
    if found.schema > _SCHEMA:
        raise TgsError(
            f"{path} is of a newer tgsbench (schema {found.schema}, known: {_SCHEMA})",
            exit_code=ExitCode.BAD_INPUT,
        )
    return found


def baseline_of(found: Baselines, preset: str, path: Path) -> Row:
    """The row that new runs of a preset are held against.

    Raises TgsError when there is none, or it has too few runs to know their spread.
    """
    row = found.rows.get(preset)
    if row is None:
        raise TgsError(
            f"{path} has no baseline of {preset}; {nearest(preset, found.rows)}",
            hint=f"tgsbench gate {path} {preset} --update measures it",
            exit_code=ExitCode.BAD_INPUT,
        )
    if len(row.samples) < LEAST_RUNS or not all(0 < tgs < float("inf") for tgs in row.samples):
        raise TgsError(
            f"{path}: the baseline of {preset} has {len(row.samples)} usable runs, of {LEAST_RUNS}",
            hint=f"tgsbench gate {path} {preset} --update measures it anew",
            exit_code=ExitCode.BAD_INPUT,
        )
    if not all(_is_around(row.tgs, interval) for interval in (row.ci95, row.range80) if interval):
        raise TgsError(
            f"{path}: the baseline of {preset} is {row.tgs}, outside its own interval or without bounds",
            hint=f"tgsbench gate {path} {preset} --update measures it anew",
            exit_code=ExitCode.BAD_INPUT,
        )
    return row


def _is_around(tgs: float | None, interval: Interval) -> bool:
    """Do positive bounds that some speed could have hold the figure?"""
    low, high = interval
    return tgs is not None and _LEAST_TGS < low <= tgs <= high < _MOST_TGS


def store(found: Baselines, path: Path) -> None:
    """Write the file, whole or not at all. Raises TgsError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    except OSError as error:
        raise unwritable(path, error) from error


def as_baseline(row: Row) -> Row:
    """A measured row as it is kept: without what only its own machine's files say."""
    return msgspec.structs.replace(row, forecast=None, source="")
