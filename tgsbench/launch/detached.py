"""Starts a run's supervisor in a session of its own, so that it outlives whoever started it, and stops it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.command import supervisor_argv
from tgsbench.store.run_dir import RunDir, age_s, unwritable
from tgsbench.system.child import child_environment
from tgsbench.system.session import start_in_session

_SILENT_S = 60.0
_MAY_BE = f"may be running: its run.json is damaged, and it was written to in the last {_SILENT_S:.0f} s"


class Supervisor:
    """The supervisor process of a prepared run; the handle may be dropped without ending the run."""

    def __init__(self, run: RunDir) -> None:
        try:
            with (run.log_dir / "supervisor.log").open("ab") as log:
                self._process = start_in_session(supervisor_argv(run.path), child_environment(), log)
        except OSError as error:
            raise unwritable(run.log_dir, error) from error
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """Exit code once it has ended; asking also reaps it, else it would look alive as a zombie."""
        return self._process.poll()


def stop(run: RunDir) -> bool:
    """Ask the run's supervisor to end: SIGINT, as Ctrl-C does; False when none lives here.

    The supervisor ends the ranks, keeps what was measured and stores status `cancelled`.
    """
    if not run.is_alive():
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.manifest().supervisor_pid, signal.SIGINT)
        return True
    return False


def discard(run: RunDir) -> None:
    """Delete a run that is over. Raises TgsError when it goes on or the folder is no run."""
    if run.path.is_symlink() or not (run.path / "run.json").is_file():
        raise TgsError(f"{run.path} is no run folder", exit_code=ExitCode.STORE)
    if alive := _alive(run):
        raise TgsError(f"{run.run_id} {alive}", hint="stop it first", exit_code=ExitCode.STORE)
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise TgsError(f"cannot delete {run.path}: {error.strerror}", exit_code=ExitCode.STORE) from error


def _alive(run: RunDir) -> str:
    """Why a run is taken to go on; empty: it does not.

    As its run.json says; where that is damaged, whether anybody holds the folder or writes to it.
    """
    try:
        return "is still running" if run.is_alive() else ""
    except TgsError:
        if run.is_claimed():
            return "is still running"
        return _MAY_BE if age_s(run) < _SILENT_S else ""
