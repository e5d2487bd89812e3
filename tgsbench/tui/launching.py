"""Runs started from the terminal UI: the checks of the command line, then a supervisor of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tgsbench.launch.detached import Supervisor
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

if TYPE_CHECKING:
    from tgsbench.live.session import Session


def start(run: RunDir) -> Session:
    """Start a prepared run's supervisor, unless it has one, and follow it.

    Raises TgsError when the run cannot be read.
    """
    from tgsbench.live.session import follow

    manifest = run.manifest()
    fresh = not manifest.supervisor_pid and run.result() is None
    return follow(run, Supervisor(run) if fresh else None)


def launch(preset: Preset, root: Path, *, rehearse: bool = False) -> Session:
    """Make a run folder and start it, after the checks that the command line makes.

    Raises TgsError when the preset does not fit, a package is missing or the folder cannot be written.
    """
    from tgsbench.launch import local, preflight  # with the planner: to look at a run waits for neither
    from tgsbench.launch.rehearse import rehearsal_on

    machine = preflight.this_machine()
    if rehearse:
        preset = rehearsal_on(preset, machine)
    preflight.check(preset, machine, preset.world_size)
    run = run_dir.create(root, preset)
    local.prepare_run(run, preset)
    return start(run)
