"""Checks for a terminal before Textual is imported, which would hang without one."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgsbench.cli import diagnostics
from tgsbench.errors import ExitCode, TgsError

if TYPE_CHECKING:
    from tgsbench.store.run_dir import RunDir


def print_running(runs: Sequence[RunDir]) -> None:
    """Print which runs still go on once the UI is closed, and the command that opens each again."""
    for run in runs:
        diagnostics.note(f"{run.run_id} goes on: tgsbench attach {shlex.quote(str(run.path))}")


def print_tunes(root: Path) -> None:
    """Print which tunes of a folder of runs go on once the UI is closed."""
    from tgsbench.tune.state import going_on

    for name in going_on(root):
        diagnostics.note(f"the tune {name} goes on: U in the UI shows it")


def require_terminal(headless: str) -> None:
    """Raise TgsError (exit code 2) naming the `headless` command when there is no terminal.

    Textual reads from stdin and draws on stderr, so all three must be one; a browser session brings its
    own driver instead.
    """
    if os.environ.get("TEXTUAL_DRIVER"):
        return
    for stream, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout"), (sys.stderr, "stderr")):
        if stream is None or not stream.isatty():
            raise TgsError(
                f"the terminal UI needs a terminal; {name} is none", hint=headless, exit_code=ExitCode.USAGE
            )
