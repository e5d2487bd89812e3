"""Run directories: create, name, list, read; every document is written once, by rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.events.tail import RunTail
from tgsbench.install import upgrade
from tgsbench.models.registry import is_family
from tgsbench.safe_files import (
    check_numbers,
    harmless,
    harmless_json,
    is_plain_json,
    one_line,
    printable,
    read_regular,
    reason_of,
    toml_document,
    utf8,
)
from tgsbench.schema import lenient
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Event
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import SCHEMA_VERSION, LauncherReport, Manifest, Outcome, Result
from tgsbench.system.file_lock import lock_if_free
from tgsbench.system.lifetime import process_identity

T = TypeVar("T", bound=msgspec.Struct)

_OPTIONAL_PARTS: dict[type[msgspec.Struct], tuple[str, ...] | None] = {
    Manifest: ("prediction",),
    Result: ("prediction", "environment", "profile", "claimed"),
    Environment: None,
}
"""Keys whose value another version may have written in a way that this one cannot read; None: all."""
_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_MAX_DOCUMENT = 64 << 20
_MAX_PRESET = 1 << 20
_MAX_STACK = 2 << 20
_MAX_STACKS = 4096
_RESERVE_BYTES = 16 << 10
"""An outcome has some hundred bytes, a result without a profile 4 to 12 KiB."""
_DISK_ERRORS = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_NAMELESS = getattr(os, "O_TMPFILE", 0)
_PROBE_BYTES = 4096
"""One block: less would fit into a file's last one on a full disk."""
_BY_WEIGHT = ("stalled", "cancelled", "preempted")
_YEAR_9999 = 253_402_300_799
_STAMP = re.compile(r"^(\d{8}T\d{6})(?:-|$)")
_STACK_FILE = re.compile(r"^rank(\d{5,6})\.txt$")


class RunDir:
    """One run's folder and the documents in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._notes: dict[str, list[str]] = {}

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def events_dir(self) -> Path:
        """One JSONL file per rank."""
        return self.path / "events"

    @property
    def log_dir(self) -> Path:
        """One log per rank, and the launcher's."""
        return self.path / "log"

    @property
    def stacks_dir(self) -> Path:
        """What the ranks of a stalled run answered when asked where they stand."""
        return self.path / "stacks"

    def stack_texts(self) -> dict[int, str]:
        """Python stacks by rank, of a stalled run."""
        found: dict[int, str] = {}
        for name in _names(self.stacks_dir):
            match = _STACK_FILE.match(name)
            if match is not None and len(found) < _MAX_STACKS:
                with contextlib.suppress(OSError):
                    text = read_regular(self.stacks_dir / name, _MAX_STACK)
                    found[int(match[1])] = printable(text.decode(errors="replace"))
        return found

    def collected(self) -> list[str]:
        """Stacks, collectives and memory snapshots in the folder, relative to it."""
        stacks = [f"stacks/{name}" for name in _names(self.stacks_dir)]
        snapshots = [f"log/{name}" for name in _names(self.log_dir) if "memory_snapshot" in name]
        return (stacks + snapshots)[:_MAX_STACKS]

    def manifest(self) -> Manifest:
        """run.json."""
        return self._read("run.json", Manifest)

    def preset(self) -> Preset:
        """preset.toml, fully resolved."""
        try:
            document = toml_document(read_regular(self.path / "preset.toml", _MAX_PRESET))
        except (OSError, ValueError) as error:
            raise _damaged(self.path / "preset.toml", str(error)) from error
        return presets.from_document(document, str(self.path / "preset.toml"))

    def preset_digest(self) -> str:
        """Of the bytes of preset.toml; the ranks wrote down that of the bytes that they read."""
        try:
            return digest_of_bytes(read_regular(self.path / "preset.toml", _MAX_PRESET))
        except (OSError, ValueError) as error:
            raise _damaged(self.path / "preset.toml", str(error)) from error

    def num_event_bytes(self) -> int:
        """Size of all event files."""
        return sum(tail.num_unread() for tail in RunTail(self.events_dir).tails())

    def result(self) -> Result | None:
        """result.json, or None while there is none; a model of an unknown family makes it unreadable."""
        found = self._read_optional("result.json", Result)
        if found is not None and found.model is not None and not is_family(found.model.family):
            raise _damaged(self.path / "result.json", f"model.family={found.model.family!r}: no such family")
        return found

    def outcome(self) -> Outcome | None:
        """What the supervisors of all nodes saw, in one; None while the first node's has not ended."""
        first = self._read_optional("outcome.json", Outcome)
        if first is None:
            return None
        others = self._of_nodes("outcome", Outcome)
        # One node sees a stall first, and ends it: to the others it looks like ranks that were told to leave.
        told = next((o for status in _BY_WEIGHT for o in (first, *others) if o.status == status), first)
        return msgspec.structs.replace(
            told,
            exit_code=first.exit_code,
            cause=next((o.cause for o in (*others, first) if o.cause), ""),
            disk=next((o.disk for o in (first, *others) if o.disk), ""),
            left=[rank for o in (first, *others) for rank in o.left],
            oom_kills=first.oom_kills + sum(o.oom_kills for o in others),
        )

    def launcher_report(self) -> LauncherReport | None:
        """launcher.json files of all nodes in one, or None."""
        first = self._read_optional("launcher.json", LauncherReport)
        reports = ([first] if first else []) + self._of_nodes("launcher", LauncherReport)
        if not reports:
            return None
        return msgspec.structs.replace(
            reports[0],
            exits=[e for report in reports for e in report.exits],
            signal=next((report.signal for report in reports if report.signal), ""),
            problem=next((report.problem for report in reports if report.problem), ""),
        )

    def _of_nodes(self, stem: str, kind: type[T]) -> list[T]:
        """The documents that nodes 1 and up wrote, such as outcome1.json."""
        pattern = re.compile(rf"^{stem}([1-9]\d{{0,4}})\.json$")
        matches = sorted((int(m[1]), m[0]) for name in _names(self.path) if (m := pattern.match(name)))
        return [self._read(name, kind) for _, name in matches]

    def environment(self) -> Environment:
        """env.json; where there is none, an environment that says nothing."""
        return self._read_optional("env.json", Environment) or Environment()

    def notes(self, *names: str) -> list[str]:
        """What did not fit in documents of these names when they were last read, and counts as absent."""
        return [note for name in names for note in self._notes.get(name, [])]

    def events(self) -> Iterator[Event]:
        """Every event written so far."""
        return RunTail(self.events_dir).read_all()

    def change_manifest(self, change: Callable[[Manifest], None]) -> Manifest:
        """Change run.json while nobody else does: two processes that write at once lose nothing.

        What another version wrote there, and this one cannot read, stays.
        """
        with _alone(self.path / ".manifest.lock"):
            manifest = self.manifest()
            before = msgspec.to_builtins(manifest)
            change(manifest)
            after = msgspec.to_builtins(manifest).items()
            changed = {key: value for key, value in after if value != before[key]}
            whole = msgspec.json.decode(read_regular(self.path / "run.json", _MAX_DOCUMENT))
            self.write("run.json", whole | changed)
        return manifest

    def write(self, name: str, document: Any) -> None:
        """Write one JSON document by rename, so that no reader ever sees half of it."""
        data = msgspec.json.format(msgspec.json.encode(document), indent=2)
        write_atomic(self.path / name, data + b"\n")

    def is_claimed(self) -> bool:
        """Does a supervisor on this host hold the folder (see `claimed`)? True where it cannot be asked."""
        for path in self.path.glob(".lock[0-9]*"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                return True
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(fd)
        return False

    def is_alive(self) -> bool:
        """Does the process that supervises this run still live (on this host)?"""
        manifest = self.manifest()
        if manifest.host != os.uname().nodename or not manifest.supervisor_identity:
            return False
        return process_identity(manifest.supervisor_pid) == manifest.supervisor_identity

    def _read(self, name: str, kind: type[T]) -> T:
        path = self.path / name
        try:
            raw = read_regular(path, _MAX_DOCUMENT)
            data = harmless_json(raw)
            version = msgspec.json.decode(data, type=_Version).schema_version
            if version > SCHEMA_VERSION:
                raise _newer(path, version)
            found, notes = lenient.decode(data, kind, _OPTIONAL_PARTS.get(kind, ()))
            check_numbers(found)
            found = found if is_plain_json(raw) else harmless(found)
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(path, reason_of(error)) from error
        self._notes[name] = [f"{name}: {one_line(note)}" for note in notes]
        return found

    def _read_optional(self, name: str, kind: type[T]) -> T | None:
        return self._read(name, kind) if (self.path / name).exists() else None


class _Version(msgspec.Struct):
    schema_version: int = SCHEMA_VERSION


def runs_root(output: Path | None = None) -> Path:
    """Folder of all runs: the one asked for, $TGSBENCH_RUNS, or ./runs."""
    return output or Path(os.environ.get("TGSBENCH_RUNS") or "runs")


def create(root: Path, preset: Preset, name: str = "", exist_ok: bool = False) -> RunDir:
    """Make a run directory with its sub-folders and preset.toml; `exist_ok`: other nodes make it too.

    Raises TgsError when the folder cannot be written or the name could leave it.
    """
    run_id = name or free_name(root, preset.name)
    if not _SAFE_NAME.match(run_id) or ".." in run_id:
        raise TgsError(
            f"run name {run_id!r} may hold letters, digits, '_', '.', '-' only", exit_code=ExitCode.STORE
        )
    run = RunDir(root / run_id)
    try:
        for sub in ("events", "log"):
            (run.path / sub).mkdir(parents=True, exist_ok=exist_ok)
        if not (run.path / "preset.toml").exists():
            write_atomic(run.path / "preset.toml", presets.to_toml(preset).encode())
    except FileExistsError as error:
        raise TgsError(
            f"{run.path} already exists", hint="choose another name", exit_code=ExitCode.STORE
        ) from error
    except OSError as error:
        raise unwritable(run.path, error) from error
    return run


def free_name(root: Path, preset_name: str) -> str:
    """Time, preset, and a tag that no run of this second has: four hex digits meet after 300 runs."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    while (root / (run_id := f"{stamp}-{preset_name}-{secrets.token_hex(2)}")).exists():
        continue
    return run_id


@contextlib.contextmanager
def claimed(run: RunDir, node_rank: int = 0) -> Iterator[None]:
    """Hold a run folder for one supervisor a node; the kernel lets go when that process ends in any way.

    Raises TgsError when another one holds it, or when the folder was run before.
    """
    try:
        fd = os.open(run.path / f".lock{node_rank}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(run.path, error) from error
    try:
        _lock(fd, run)
        ranks_wrote = any(name.startswith("rank") for name in _names(run.events_dir))
        if ranks_wrote or (run.path / numbered("outcome.json", node_rank)).exists():
            raise TgsError(
                f"{run.path} was run already",
                hint="start a new run; `tgsbench show` prints this one",
                exit_code=ExitCode.STORE,
            )
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for the lock of a file; a file system without locks is used without."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def digest_of_bytes(data: bytes) -> str:
    """Sixteen hex digits that two different files do not share."""
    return hashlib.sha256(data).hexdigest()[:16]


def numbered(name: str, node_rank: int) -> str:
    """Name of a document that every node writes: outcome.json on the first, outcome1.json on the next."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}{node_rank or ''}{dot}{suffix}"


def _lock(fd: int, run: RunDir) -> None:
    if not lock_if_free(fd):  # where there are no locks, the events that another run wrote still tell
        raise TgsError(
            f"{run.path} is being run by another process",
            hint="follow it with `tgsbench attach`, or start a new run",
            exit_code=ExitCode.STORE,
        )


def reserve(run: RunDir, node_rank: int = 0) -> None:
    """Reserve disk space for outcome.json and result.json: a disk that fills up must not lose the run's end.

    Raises TgsError when there is none.
    """
    try:
        write_atomic(run.path / f".reserve{node_rank}", bytes(_RESERVE_BYTES))
    except OSError as error:
        raise unwritable(run.path, error) from error


def release(run: RunDir, node_rank: int = 0) -> None:
    """Free the reserved space, right before it is needed; on a read-only disk it stays."""
    with contextlib.suppress(OSError):
        (run.path / f".reserve{node_rank}").unlink(missing_ok=True)


def why_unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder now: full, read-only, gone; empty when a file could be."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        return ""
    except OSError as error:
        return f"{utf8(folder)} cannot be written any more: {error.strerror or error}"
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def disk_problem(folder: Path) -> str:
    """What is wrong with the disk of a folder, without leaving anything there; empty when nothing is."""
    try:
        disk = os.statvfs(folder)
        # A file without a name: a disk that an error made read-only shows it in no flag.
        if _NAMELESS:
            os.close(os.open(folder, os.O_WRONLY | os.O_CLOEXEC | _NAMELESS))
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            return f"the disk of {utf8(folder)}: {error.strerror}"
        return ""
    if disk.f_blocks and not disk.f_bavail:
        return f"the disk of {utf8(folder)} is full"
    if disk.f_files and not disk.f_favail:
        return f"the disk of {utf8(folder)} has room for no more files"
    return ""


def unwritable(path: Path, error: OSError) -> TgsError:
    """The error for a runs folder that is full or read-only."""
    return TgsError(
        f"cannot write {path}: {error.strerror}",
        hint="choose a folder with room: --output DIR or TGSBENCH_RUNS=DIR",
        exit_code=ExitCode.STORE,
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class Store:
    """A folder of runs as it was when it was first asked: one listing, however many runs are looked up."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def names(self) -> list[str]:
        """Names of all folders with a run.json, in no order."""
        try:
            with os.scandir(self.root) as entries:
                return [e.name for e in entries if e.is_dir() and os.path.exists(f"{e.path}/run.json")]  # noqa: PTH110
        except OSError:
            return []

    @cached_property
    def numbered(self) -> dict[str, list[str]]:
        """Names that end with "-" and digits, by what stands before: {"nightly": ["nightly-1", …]}."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            stem, _, number = name.rpartition("-")
            if number.isdecimal():
                found.setdefault(stem, []).append(name)
        return found

    @cached_property
    def runs(self) -> list[RunDir]:
        """All runs, newest first."""
        found = [RunDir(self.root / name) for name in self.names]
        return sorted(found, key=lambda run: (created_unix(run), run.run_id), reverse=True)

    def find(self, wanted: str) -> RunDir:
        """A run by path of its folder, name, "latest", or unique part of a name; a name lists no folder.

        Raises TgsError naming the nearest runs.
        """
        for path in (Path(wanted), self.root / wanted):
            if wanted != "latest" and wanted.strip(".") and (path / "run.json").exists():
                return RunDir(path)
        if wanted == "latest" and self.names:
            return self.runs[0]
        matches = [name for name in self.names if wanted in name]
        if len(matches) == 1:
            return RunDir(self.root / matches[0])
        what = f"{len(matches)} runs match" if matches else "no run called"
        where = "" if matches else f" in {self.root}"
        raise TgsError(
            f"{what} {wanted!r}{where}; {nearest(wanted, matches or self.names)}",
            hint="`tgsbench runs` lists them; `latest` names the newest",
            exit_code=ExitCode.STORE,
        )


def list_runs(root: Path) -> list[RunDir]:
    """All run directories, newest first; folders without run.json are passed over."""
    return Store(root).runs


def find(root: Path, wanted: str) -> RunDir:
    """A run by path of its folder, name, unique part of a name, or "latest"; see `Store.find`."""
    return Store(root).find(wanted)


def created_unix(run: RunDir) -> float:
    """When a run was made: as run.json says, else its folder's name, else the time of run.json.

    Now where nothing tells, so that prune takes it for no old one.
    """
    try:
        stat = (run.path / "run.json").stat()
    except OSError:
        return _stamped_unix(run.run_id) or time.time()
    return _created(run.path, stat.st_mtime_ns, stat.st_size)


class _Created(msgspec.Struct):
    created_unix: float | None = None


@lru_cache(maxsize=1 << 16)
def _created(path: Path, mtime_ns: int, num_bytes: int) -> float:
    """Keyed by what changes when run.json does: lists ask again and again."""
    try:
        told = msgspec.json.decode(read_regular(path / "run.json", _MAX_DOCUMENT), type=_Created).created_unix
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if told is not None and 0 <= told < _YEAR_9999:
        return told
    return _stamped_unix(path.name) or mtime_ns / 1e9


def _stamped_unix(name: str) -> float:
    """Time in a folder's name as `create` writes it: 20260131T120000-…; 0 for another name."""
    match = _STAMP.match(name)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() if match else 0.0
    except ValueError:
        return 0.0


def age_s(run: RunDir) -> float:
    """Seconds since anything was written to the run's events."""
    stamps = [path.stat().st_mtime for path in run.events_dir.glob("*.jsonl")]
    return time.time() - max(stamps) if stamps else float("inf")


def _names(folder: Path) -> list[str]:
    """Sorted names in a folder; none where it is missing or a link that could lead elsewhere."""
    try:
        return [] if folder.is_symlink() else sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _damaged(path: Path, why: str) -> TgsError:
    return TgsError(
        f"{path}: cannot be read: {why}",
        hint="the event files beside it are the truth; `tgsbench show` rebuilds a missing result.json",
        exit_code=ExitCode.STORE,
    )


def _newer(path: Path, version: int) -> TgsError:
    return TgsError(
        f"{path}: schema {version}; this tgsbench reads up to {SCHEMA_VERSION}",
        hint=f"upgrade tgsbench: {upgrade()}",
        exit_code=ExitCode.STORE,
    )
