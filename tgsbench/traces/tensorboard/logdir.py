"""The folder that TensorBoard is shown: a folder a run, with links to its traces and its scalars.

Never the runs folder itself: a run in progress has traces there that are half written, and the plugin reads a
folder once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tgsbench.errors import ExitCode, TgsError
from tgsbench.results.export import tensorboard_log
from tgsbench.results.export.series import series_of
from tgsbench.store.run_dir import RunDir
from tgsbench.traces.files import PACKING_ERRORS, open_trace

_TRACE: Final = re.compile(r"^(.*?)(\.\d+)?(\.pt)?(\.trace)?\.json(\.\w+)?$")
MEMORY_FACTOR: Final = 6
"""Bytes of memory that the plugin takes for one of a trace: 2.0 GB for 350 MB."""


@dataclass(frozen=True)
class LogdirRun:
    """What TensorBoard lists as one run."""

    name: str
    traces: Sequence[Path]
    run: RunDir | None = None
    """None: loose traces, which have no scalars."""


def lay_out(shown: Sequence[LogdirRun], logdir: Path) -> None:
    """Fill an empty folder. Raises OSError when it cannot be written, TgsError when a name comes twice."""
    for one in shown:
        folder = logdir / one.name
        if folder.exists():
            raise TgsError(f"{one.name} is named twice", hint="name each run once")
        folder.mkdir()
        for trace in one.traces:
            _show_trace(trace, folder)
        if one.run is not None:
            _show_scalars(one.run, folder)


def _show_trace(trace: Path, folder: Path) -> None:
    """A link to what the plugin can read itself, else the unpacked trace. TgsError for a broken one."""
    is_ours = trace.is_file() and trace.suffix in (".json", ".gz")
    target = folder / _plugin_name(trace, is_packed=is_ours and trace.suffix == ".gz")
    if target.exists():
        target = folder / f"{len(list(folder.iterdir()))}-{target.name}"
    if is_ours:
        target.symlink_to(trace.resolve())
        return
    with target.open("wb") as out:
        try:
            with open_trace(trace) as packed:
                while data := packed.read(1 << 20):
                    out.write(data)
        except PACKING_ERRORS as error:
            raise TgsError(f"{trace}: cannot be read: {error}", exit_code=ExitCode.BAD_INPUT) from error


def _plugin_name(trace: Path, is_packed: bool) -> str:
    """WORKER[.STAMP].pt.trace.json[.gz], whatever another program called it."""
    match = _TRACE.match(trace.name)
    worker = f"{match[1]}{match[2] or ''}" if match is not None else trace.stem
    return f"{worker}.pt.trace.json{'.gz' if is_packed else ''}"


def _show_scalars(run: RunDir, folder: Path) -> None:
    """The event files that the run wrote, or such made from its events where it could not write any."""
    written = sorted((run.path / tensorboard_log.FOLDER).glob("events.out.tfevents.*"))
    for path in written:
        if path.is_file() and not path.is_symlink():
            (folder / path.name).symlink_to(path.resolve())
    if not written:
        tensorboard_log.write(series_of(run), folder)


def memory_bytes(traces: Sequence[Path]) -> int:
    """What the plugin takes to read the largest of the traces."""
    return MEMORY_FACTOR * max((_plain_bytes(path) for path in traces), default=0)


def _plain_bytes(path: Path) -> int:
    """Size without compression, as a gzip file's last four bytes say it."""
    if not path.is_file():
        return 0  # inside an archive
    size = path.stat().st_size
    if path.suffix != ".gz" or size < 4:
        return size
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")
