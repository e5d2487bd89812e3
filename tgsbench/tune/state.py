"""RUNS/tune/NAME.json: how a tune stands, written before each trial and at the end, for whoever looks on.

The journal is what a tune goes on from; this document is made from it and can be thrown away.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.safe_files import check_numbers, harmless, harmless_json, read_regular, reason_of
from tgsbench.store.run_dir import unwritable, write_atomic
from tgsbench.system.lifetime import process_identity
from tgsbench.tune.candidates import Space
from tgsbench.tune.halving import Trial, TrialOutcome, Tuner
from tgsbench.tune.journal import Asked
from tgsbench.tune.verdict import Verdict, verdict_of

SCHEMA_VERSION = 1
_MAX_BYTES = 16 << 20


class TuneState(Struct, frozen=True, kw_only=True):
    """A tune that goes on, or how it ended."""

    schema_version: int = SCHEMA_VERSION
    name: str
    asked: Asked
    budget_s: float
    host: str
    pid: int
    process: str
    """What tells the process from a later one with its number."""
    trial: Trial | None = None
    """What is being run; None before the first, and at the end."""
    trial_began_s: float = 0.0
    """When it began, in seconds of the clock on the wall."""
    is_over: bool = False
    outcomes: list[TrialOutcome] = []
    verdict: Verdict

    @property
    def is_alive(self) -> bool:
        """Does the process that makes the trials live, on this host?"""
        here = self.host == os.uname().nodename
        return not self.is_over and here and process_identity(self.pid) == self.process != ""


class StateFile:
    """Writes the state of one tune."""

    def __init__(self, root: Path, name: str, asked: Asked, budget_s: float, space: Space) -> None:
        self._path = path_of(root, name)
        self._name, self._asked, self._budget_s, self._space = name, asked, budget_s, space

    def write(self, tuner: Tuner, trial: Trial | None, ended: str = "") -> None:
        """Write how it stands: `trial` is about to be made, or it `ended` so.

        Raises TgsError when it cannot be written.
        """
        state = TuneState(
            name=self._name,
            asked=self._asked,
            budget_s=self._budget_s,
            host=os.uname().nodename,
            pid=os.getpid(),
            process=process_identity(os.getpid()),
            trial=trial,
            trial_began_s=time.time(),
            is_over=bool(ended),
            outcomes=tuner.trials,
            verdict=verdict_of(self._space, tuner, ended or "goes on"),
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, msgspec.json.encode(state) + b"\n")
        except OSError as error:
            raise unwritable(self._path, error) from error


def path_of(root: Path, name: str) -> Path:
    """Where the state of a tune of this name is."""
    return root / "tune" / f"{name}.json"


def read_state(root: Path, name: str) -> TuneState | None:
    """The state of a tune; None while there is none. Raises TgsError for a file that no tune wrote."""
    path = path_of(root, name)
    try:
        found = msgspec.json.decode(harmless_json(read_regular(path, _MAX_BYTES)), type=TuneState)
        check_numbers(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TgsError(f"{path}: {reason_of(error)}", exit_code=ExitCode.STORE) from error
    except (ValueError, RecursionError) as error:
        raise TgsError(f"{path}: no state of a tune: {reason_of(error)}", exit_code=ExitCode.STORE) from error
    if found.schema_version > SCHEMA_VERSION:
        raise TgsError(
            f"{path}: written by a newer tgsbench", hint="update tgsbench", exit_code=ExitCode.STORE
        )
    return harmless(found)


def names(root: Path) -> list[str]:
    """Tunes of a folder of runs, the one that was last written first."""
    try:
        found = [(entry.stat().st_mtime, entry.name) for entry in os.scandir(root / "tune")]
    except OSError:
        return []
    return [name.removesuffix(".json") for _, name in sorted(found, reverse=True) if name.endswith(".json")]


def going_on(root: Path) -> list[str]:
    """Names of the tunes whose processes live; damaged files are nobody's."""
    found = []
    for name in names(root):
        try:
            state = read_state(root, name)
        except TgsError:
            continue
        if state is not None and state.is_alive:
            found.append(name)
    return found


def stop(state: TuneState) -> bool:
    """Interrupt it, as Ctrl-C does: it keeps what was measured and says the best; False when it is over."""
    if not state.is_alive:
        return False
    try:
        os.kill(state.pid, signal.SIGINT)
    except ProcessLookupError:
        return False
    return True
