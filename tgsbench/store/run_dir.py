"""Run directories: create, name, list, read; every document is written once, by rename."""

from __future__ import annotations

import os
import re
import secrets
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.events.tail import RunTail
from tgsbench.schema.events import Event
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import SCHEMA_VERSION, LauncherReport, Manifest, Outcome, Result

T = TypeVar("T")

_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_MAX_DOCUMENT = 64 << 20


class RunDir:
    """One run's folder and the documents in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

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

    def manifest(self) -> Manifest:
        """run.json."""
        return self._read("run.json", Manifest)

    def preset(self) -> Preset:
        """preset.toml, fully resolved."""
        try:
            document = tomllib.loads((self.path / "preset.toml").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise _damaged(self.path / "preset.toml", str(error)) from error
        return presets.from_document(document, str(self.path / "preset.toml"))

    def result(self) -> Result | None:
        """result.json, or None while there is none."""
        return self._read_optional("result.json", Result)

    def outcome(self) -> Outcome | None:
        """outcome.json: what the supervisor saw, or None."""
        return self._read_optional("outcome.json", Outcome)

    def launcher_report(self) -> LauncherReport | None:
        """launcher.json files of all nodes in one, or None."""
        reports = [
            report
            for path in sorted(self.path.glob("launcher*.json"))
            if (report := self._read_optional(path.name, LauncherReport)) is not None
        ]
        if not reports:
            return None
        exits = [e for report in reports for e in report.exits]
        return LauncherReport(exits=exits, signal=reports[0].signal, ended_unix=reports[0].ended_unix)

    def environment(self) -> dict[str, Any]:
        """env.json, or nothing."""
        return self._read_optional("env.json", dict[str, Any]) or {}

    def events(self) -> Iterator[Event]:
        """Every event written so far."""
        return RunTail(self.events_dir).read_all()

    def write(self, name: str, document: Any) -> None:
        """Write one JSON document by rename, so that no reader ever sees half of it."""
        data = msgspec.json.format(msgspec.json.encode(document), indent=2)
        write_atomic(self.path / name, data + b"\n")

    def is_alive(self) -> bool:
        """Does the process that supervises this run still live (on this host)?"""
        manifest = self.manifest()
        if manifest.host != os.uname().nodename or not manifest.supervisor_pid:
            return False
        try:
            process = psutil.Process(manifest.supervisor_pid)
            return bool(process.is_running() and process.create_time() <= manifest.created_unix + 60)
        except psutil.Error:
            return False

    def _read(self, name: str, kind: type[T]) -> T:
        path = self.path / name
        try:
            if path.stat().st_size > _MAX_DOCUMENT:
                raise _damaged(path, "larger than 64 MiB")
            data = path.read_bytes()
            version = msgspec.json.decode(data, type=_Version).schema_version
            if version > SCHEMA_VERSION:
                raise _newer(path, version)
            return msgspec.json.decode(data, type=kind)
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _damaged(path, str(error)) from error

    def _read_optional(self, name: str, kind: type[T]) -> T | None:
        return self._read(name, kind) if (self.path / name).exists() else None


class _Version(msgspec.Struct):
    schema_version: int = SCHEMA_VERSION


def runs_root(output: Path | None = None) -> Path:
    """Folder of all runs: the one asked for, $TGSBENCH_RUNS, or ./runs."""
    return output or Path(os.environ.get("TGSBENCH_RUNS") or "runs")


def create(root: Path, preset: Preset, name: str = "") -> RunDir:
    """Make a new run directory with its sub-folders and preset.toml.

    Raises TgsError when the folder cannot be written or the name could leave it.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    run_id = name or f"{stamp}-{preset.name}-{secrets.token_hex(2)}"
    if not _SAFE_NAME.match(run_id) or ".." in run_id:
        raise TgsError(
            f"run name {run_id!r} may hold letters, digits, '_', '.', '-' only", exit_code=ExitCode.STORE
        )
    run = RunDir(root / run_id)
    try:
        for sub in ("events", "log"):
            (run.path / sub).mkdir(parents=True)
        write_atomic(run.path / "preset.toml", presets.to_toml(preset).encode())
    except FileExistsError as error:
        raise TgsError(
            f"{run.path} already exists", hint="choose another name", exit_code=ExitCode.STORE
        ) from error
    except OSError as error:
        raise unwritable(run.path, error) from error
    return run


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


def list_runs(root: Path) -> list[RunDir]:
    """All run directories, newest first; folders without run.json are passed over."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return [RunDir(root / n) for n in sorted(names, reverse=True) if (root / n / "run.json").exists()]


def find(root: Path, wanted: str) -> RunDir:
    """A run by name, unique part of a name, path of its folder, or "latest"."""
    path = Path(wanted)
    if (path / "run.json").exists():
        return RunDir(path)
    runs = list_runs(root)
    if wanted == "latest" and runs:
        return runs[0]
    exact = [run for run in runs if run.run_id == wanted]
    matches = exact or [run for run in runs if wanted in run.run_id]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} runs match {wanted!r}" if matches else f"no run called {wanted!r} in {root}"
    raise TgsError(
        f"{what}; {nearest(wanted, [run.run_id for run in matches or runs])}",
        hint="`tgsbench runs` lists them; `latest` names the newest",
        exit_code=ExitCode.STORE,
    )


def age_s(run: RunDir) -> float:
    """Seconds since anything was written to the run's events."""
    stamps = [path.stat().st_mtime for path in run.events_dir.glob("*.jsonl")]
    return time.time() - max(stamps) if stamps else float("inf")


def _damaged(path: Path, why: str) -> TgsError:
    return TgsError(
        f"{path}: cannot be read: {why}",
        hint="the event files beside it are the truth; `tgsbench show` rebuilds a missing result.json",
        exit_code=ExitCode.STORE,
    )


def _newer(path: Path, version: int) -> TgsError:
    return TgsError(
        f"{path}: schema {version}; this tgsbench reads up to {SCHEMA_VERSION}",
        hint="upgrade tgsbench: pip install -U tgsbench",
        exit_code=ExitCode.STORE,
    )
