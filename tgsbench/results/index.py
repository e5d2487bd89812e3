"""All runs of a folder in one read: RUNS/.index.json, a cache that may be deleted at any time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tgsbench.errors import TgsError
from tgsbench.safe_files import harmless_json, read_regular
from tgsbench.schema.run import Result
from tgsbench.store.run_dir import RunDir, created_unix, write_atomic

VERSION = 6
_NAME = ".index.json"
_MAX_BYTES = 1 << 30
Stamp = tuple[int, int, int, int]
"""Time of last change in ns and size of run.json and of result.json."""


class Summary(Struct, frozen=True, kw_only=True, gc=False):
    """What a list shows of one run."""

    run_id: str
    status: str
    preset: str = ""
    engine: str = ""
    linear: str = ""
    """What products of projections run in, where that is FP8."""
    tgs: float | None = None
    n: int = 0
    seq_len: int = 0
    world_size: int = 0
    sp: int = 0
    created_unix: float = 0.0
    """As `run_dir.created_unix` finds it, also for a run whose documents cannot be read."""
    rehearsal_of: str = ""
    changed: bool = False
    """It measured something else than the preset of its name."""
    reason: str = ""
    tags: list[str] = []
    work: str = ""
    """`work_digest` of what was measured; empty where nobody knows."""


class _Entry(Struct, frozen=True, array_like=True, gc=False):
    stamp: Stamp
    summary: Summary


class _Index(Struct, kw_only=True):
    version: int = VERSION
    entries: list[_Entry] = []


def list_summaries(root: Path) -> list[Summary]:
    """Every run, newest first; only runs that changed since the last call are read."""
    return newest_first(iter_summaries(root, summarize))


def newest_first(found: Iterable[Summary]) -> list[Summary]:
    """Summaries by the time that their runs were made, and by name within it."""
    return sorted(found, key=lambda summary: (summary.created_unix, summary.run_id), reverse=True)


def iter_summaries(root: Path, read: Callable[[RunDir], Summary]) -> Generator[Summary, None, None]:
    """Every run, one by one; only runs that changed since the last call are `read`.

    What was read is kept for the next call even when the caller stops early.
    """
    stored = _read(root)
    known = {entry.summary.run_id: entry for entry in stored or ()}
    names, base = _names(root), f"{root}/"
    kept = {name: known[name] for name in names if name in known}
    is_changed = len(kept) != len(known)
    try:
        for name in names:
            stamp, entry = _stamp(f"{base}{name}/"), kept.get(name)
            if entry is not None and entry.stamp == stamp:
                yield entry.summary
                continue
            is_changed |= kept.pop(name, None) is not None
            if stamp is None:
                continue
            summary, is_lasting = _survived(read, RunDir(root / name))
            # A run without result.json is asked again each time: what it is changes without a write to it;
            # so is one whose name is no text, which the cache cannot hold.
            if is_lasting and stamp[2] and name.isprintable():
                kept[name], is_changed = _Entry(stamp, summary), True
            is_changed |= stored is None
            yield summary
    finally:
        if is_changed:
            _write(root, list(kept.values()))


def _survived(read: Callable[[RunDir], Summary], run: RunDir) -> tuple[Summary, bool]:
    """What `read` says of a run and whether to keep it; an exception becomes the reason of this one row."""
    try:
        return read(run), True
    except Exception as error:  # noqa: BLE001 - one folder, written by anybody, must not take the list
        reason = error.msg if isinstance(error, TgsError) else f"{type(error).__name__}: {error}"
        return _damaged(run, reason, created_unix(run)), False


def _damaged(run: RunDir, reason: str, created: float, tags: Sequence[str] = ()) -> Summary:
    """A run that cannot be read; the reason goes without the path of its folder, which the row names."""
    reason = reason.removeprefix(f"{run.path}/").removeprefix(f"{run.path}: ")
    return Summary(run_id=run.run_id, status="damaged", reason=reason, tags=list(tags), created_unix=created)


def glance(run: RunDir) -> Summary:
    """As `summarize`, but a run that goes on is told by its manifest alone: its events are not read."""
    from tgsbench.results import results

    if (run.path / "result.json").exists() or not results.is_running(run):
        return summarize(run)
    manifest = run.manifest()
    return Summary(
        run_id=run.run_id,
        status="running",
        preset=manifest.preset,
        engine=manifest.engine,
        world_size=manifest.world_size,
        created_unix=manifest.created_unix,
        rehearsal_of=manifest.rehearsal_of,
        tags=manifest.tags,
    )


def if_finished(run: RunDir) -> Summary:
    """As `summarize`, but of a run without a stored result nothing is read: it is told by its name alone."""
    if (run.path / "result.json").exists():
        return summarize(run)
    return Summary(run_id=run.run_id, status="running")


def summarize(run: RunDir) -> Summary:
    """Read one run; a damaged one says why."""
    # 0.1 s of imports that a list without new runs does not need.
    from tgsbench.presets.work import is_other_work
    from tgsbench.results import results

    created, tags = created_unix(run), []
    try:
        tags = run.manifest().tags
    except TgsError as error:
        return _damaged(run, error.msg, created)
    item = results.load_or_describe(run)
    if not isinstance(item, Result):
        return _damaged(run, item.reason, created, tags)
    return Summary(
        run_id=run.run_id,
        status=item.status,
        preset=item.preset,
        engine=item.engine,
        linear=item.linear,
        tgs=item.tgs.median,
        n=item.tgs.n,
        seq_len=item.seq_len,
        world_size=item.world_size,
        sp=item.sp,
        created_unix=created,
        rehearsal_of=item.rehearsal_of,
        changed=is_other_work(item.changed),
        reason=item.failure.reason if item.failure else "; ".join(item.integrity.problems),
        tags=tags,
        work=item.work or _work(run),
    )


def _work(run: RunDir) -> str:
    """Of a result that tgsbench 0.2.0 wrote."""
    from tgsbench.presets.work import work_digest

    try:
        return work_digest(run.preset())
    except TgsError:
        return ""


def _names(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted((e.name for e in entries if e.name[0] != "." and e.is_dir()), reverse=True)
    except OSError:
        return []


def _stamp(path: str) -> Stamp | None:
    """None for a folder (with its slash) that is no run; text, since pathlib takes 0.1 s for 10,000."""
    try:
        run = os.stat(path + "run.json")  # noqa: PTH116
    except OSError:
        return None
    try:
        result = os.stat(path + "result.json")  # noqa: PTH116
    except OSError:
        return (run.st_mtime_ns, run.st_size, 0, 0)
    return (run.st_mtime_ns, run.st_size, result.st_mtime_ns, result.st_size)


def _read(root: Path) -> list[_Entry] | None:
    """What the cache says; None when it is missing, damaged or of another version."""
    try:
        index = msgspec.json.decode(harmless_json(read_regular(root / _NAME, _MAX_BYTES)), type=_Index)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return index.entries if index.version == VERSION else None


def _write(root: Path, entries: list[_Entry]) -> None:
    """By rename, so that readers see one index or the other; a folder that takes none is listed anyway."""
    with contextlib.suppress(OSError, UnicodeEncodeError):  # the path in a reason may be no text
        write_atomic(root / _NAME, msgspec.json.encode(_Index(entries=entries)))
