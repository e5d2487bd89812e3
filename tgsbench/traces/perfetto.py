"""All ranks on one time line for Perfetto or chrome://tracing: their first common step starts at 0."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces.event import Span
from tgsbench.traces.files import expanded, ranks_of
from tgsbench.traces.trace import TraceReader

_STEP: Final = re.compile(r"^ProfilerStep#(\d{1,18})$")
_encode: Final = msgspec.json.Encoder().encode


def merge(paths: Sequence[Path], out: Path) -> int:
    """Write one trace of all ranks, gzipped when `out` ends in .gz; returns the number of events.

    A rank's processes become processes of their own, named after the rank; its flows keep their arrows.
    Raises TgsError when a trace is damaged or `out` cannot be written.
    """
    paths = [trace for path in paths for trace in expanded(path)]
    found = [_steps(path, rank) for path, rank in zip(paths, ranks_of(paths), strict=True)]
    starts, ranks = [steps for steps, _ in found], [rank for _, rank in found]
    common = set.intersection(*(set(steps) for steps in starts)) if starts else set()
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        opener: Any = gzip.open if out.suffix == ".gz" else open
        with opener(temporary, "wb") as file:
            count = _write(file, paths, ranks, [_origin(steps, common) for steps in starts])
        temporary.replace(out)
    except OSError as error:
        raise TgsError(f"cannot write {out}: {error.strerror or error}", exit_code=ExitCode.STORE) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _steps(path: Path, rank: int) -> tuple[dict[int, float], int]:
    """Start of each marked step in microseconds, without steps the first event's as step -1; and the rank."""
    steps: dict[int, float] = {}
    first = float("inf")
    reader = TraceReader(path)
    for events in reader.chunks():
        for event in events:
            if type(event) is Span:
                first = min(first, event.ts)
                match = _STEP.match(event.name) if event.cat != "gpu_user_annotation" else None
                if match:
                    steps[int(match[1])] = event.ts
    said = reader.head.distributed.rank if reader.head.distributed is not None else None
    return steps or {-1: first}, rank if said is None else said


def _origin(steps: dict[int, float], common: set[int]) -> float:
    return steps[min(common)] if common else min(steps.values())


def _write(file: IO[bytes], paths: Sequence[Path], ranks: list[int], origins: list[float]) -> int:
    file.write(b'{"displayTimeUnit": "ms", "traceEvents": [\n')
    count = 0
    for index, (path, rank, origin) in enumerate(zip(paths, ranks, origins, strict=True)):
        for event in _moved(path, index, rank, origin):
            file.write((b",\n" if count else b"") + _encode(event))
            count += 1
    file.write(b"\n]}\n")
    return count


def _moved(path: Path, index: int, rank: int, origin: float) -> Iterator[dict[str, Any]]:
    reader = TraceReader(path, whole_events=True)
    processes: dict[Any, int] = {}
    for events in reader.chunks():
        for event in events:
            pid = event.get("pid")
            pid = pid if isinstance(pid, int | str) else str(pid)
            if pid not in processes:
                processes[pid] = index * 1000 + len(processes)
                yield from _named(processes[pid], f"rank {rank}: {pid}", index * 1000 + len(processes))
            event["pid"] = processes[pid]
            _set_times(event, origin)
            if "id" in event:
                event["id"] = f"{index}:{event['id']}"
            if event.get("name") not in ("process_name", "process_sort_index"):
                yield event


def _set_times(event: dict[str, Any], origin: float) -> None:
    """Times as numbers, counted from the origin; some programs write them as texts."""
    for key, since in (("ts", origin), ("dur", 0.0)):
        try:
            found = float(event[key])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(found):
            event[key] = round(found - since, 3)


def _named(process: int, name: str, place: int) -> Iterator[dict[str, Any]]:
    for what, args in (("process_name", {"name": name}), ("process_sort_index", {"sort_index": place})):
        yield {"ph": "M", "name": what, "pid": process, "tid": 0, "args": args}
