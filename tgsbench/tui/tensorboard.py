"""TensorBoard on a run's traces: a process of its own on loopback, which ends with the UI."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess

from tgsbench.errors import ExitCode, TgsError
from tgsbench.store.run_dir import RunDir
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.lifetime import die_with_parent_argv

_ADDRESS = re.compile(rb"http://(?:127\.0\.0\.1|localhost):\d+\S*")
_PATIENCE_S = 5.0


def command(run: RunDir) -> list[str]:
    """What starts it: the same command as on the command line, which ends when the UI is killed, too."""
    return die_with_parent_argv(module_argv("tgsbench", "tensorboard", str(run.path)))


class TensorBoard:
    """One server; `address` blocks until it answers, so call it from a worker thread."""

    def __init__(self, run: RunDir) -> None:
        """Raises OSError when no process can be started."""
        self.run = run
        self._process = subprocess.Popen(
            command(run),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Does the server still run?"""
        return self._process.poll() is None

    def address(self) -> str:
        """Where it answers, once it says so. Raises TgsError with its last words when it ends instead."""
        assert self._process.stdout is not None
        said: list[str] = []
        for line in self._process.stdout:
            if found := _ADDRESS.search(line):
                return found[0].decode("ascii", "replace").rstrip(".,;")
            said = [*said, line.decode("utf-8", "replace").strip()][-5:]
        why = " ".join(text for text in said if text).removeprefix("error: ") or "it said nothing"
        raise TgsError(f"TensorBoard did not start: {why}", exit_code=ExitCode.MISSING_DEPENDENCY)

    def drain(self) -> None:
        """Read what else it says until it ends, so that its pipe never fills."""
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            pass

    def close(self) -> None:
        """End it and everything it started."""
        for sent in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
                return
