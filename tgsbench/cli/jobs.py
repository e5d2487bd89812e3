"""`tgsbench slurm` and its like, one command a scheduler: print a preset's script; submit, follow, cancel."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import click

from tgsbench import presets
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_idle, refuse_together
from tgsbench.cli.options import Option, own_options, wishes
from tgsbench.cli.progress import progress_for
from tgsbench.cli.run import print_result, report_failure
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local, nodes, schedulers
from tgsbench.launch.scheduler import JobState, Scheduler
from tgsbench.live.follow import FollowFeed
from tgsbench.results import results
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

_POLL_S = 2.0
"""Between two questions to the scheduler; sites ask for no more than one every few seconds."""


def command(name: str) -> click.Command:
    """The command of a registered scheduler, with the options that it takes."""
    scheduler = schedulers.find(name)

    def call(**given: Any) -> None:
        _run(name, scheduler, given)

    for option in reversed([*_BEFORE, *own_options(scheduler.options), *_AFTER]):
        call = option(call)
    return click.command(name, help=scheduler.help)(call)


_BEFORE: list[Option] = [
    click.option(
        "--preset", shell_complete=complete.presets, help="Name of a preset, or path of a .toml file."
    ),
    click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset."
    ),
]
_AFTER: list[Option] = [
    click.option("--submit", is_flag=True, help="Submit it and follow the job; Ctrl-C lets it go on alone."),
    click.option("--detach", is_flag=True, help="With --submit: do not follow."),
    click.option("--follow", metavar="JOB", help="Follow a job that was submitted before."),
    click.option("--cancel", metavar="JOB", help="Ask a job to end; what it measured is kept."),
    click.option("--json", "as_json", is_flag=True, help="When following: print result.json at the end."),
    click.option(
        "--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Shared runs folder."
    ),
]
"""Options that every scheduler has, around its own."""


def _run(name: str, scheduler: Scheduler, given: dict[str, Any]) -> None:
    refuse_idle({"detach": "submit"})
    refuse_together(
        *itertools.combinations(("preset", "follow", "cancel"), 2), ("submit", "follow"), ("submit", "cancel")
    )
    root = run_dir.runs_root(given["folder"])
    if job_id := given["cancel"]:
        scheduler.cancel(job_id)
        diagnostics.note(f"job {job_id} was asked to end; `tgsbench runs` lists what it measured")
        return
    job_id = given["follow"]
    if job_id is None:
        preset, text = _rendered(name, scheduler, given, root)
        if not given["submit"]:
            output.line(text.rstrip())
            return
        job_id, script = scheduler.submit(text, preset, root)
        diagnostics.note(f"job {job_id} submitted: {script}")
    if given["detach"]:
        output.line(job_id)
        return
    sys.exit(_follow(name, scheduler, job_id, root, given["as_json"]))


def _rendered(name: str, scheduler: Scheduler, given: dict[str, Any], root: Path) -> tuple[Preset, str]:
    wanted, sets = given["preset"], given["sets"]
    if wanted is None:
        raise TgsError("--preset is missing", hint=f"tgsbench {name} --preset llama2_70b_32k")
    preset = presets.resolve(presets.named(wanted), sets).preset
    chosen = nodes.preset_options(wanted, sets, False)
    return preset, scheduler.render(preset, chosen, wishes(scheduler.options, given), root)


def _follow(name: str, scheduler: Scheduler, job_id: str, root: Path, as_json: bool) -> int:
    try:
        return _until_over(scheduler, job_id, root, as_json)
    except KeyboardInterrupt:
        diagnostics.note(f"job {job_id} goes on; tgsbench {name} --follow {job_id}, or --cancel {job_id}")
        return ExitCode.OK


def _until_over(scheduler: Scheduler, job_id: str, root: Path, as_json: bool) -> int:
    """Narrate the job's states and its runs' events; returns the exit code of the last run's status."""
    said, last, watched = "", None, None
    while True:
        job = scheduler.look(job_id)
        if job is not None and job.line != said:
            diagnostics.note(job.line)
            said = job.line
        last = job or last
        runs = scheduler.runs_of(root, job_id)
        if runs and (watched is None or watched.run.run_id != runs[0].run_id):
            watched = _Watched(runs[0], as_json)
        if watched is not None:
            watched.poll()
        if job is None or job.is_over:
            break
        time.sleep(_POLL_S)
    if last is None:
        raise TgsError(f"{scheduler.title} knows no job {job_id}", hint=scheduler.list_hint)
    if watched is None:
        raise _never_ran(last, scheduler.log_path(root, last.id))
    return _conclude(watched.run, last, as_json)


class _Watched:
    """One run of the job and its progress on the screen."""

    def __init__(self, run: RunDir, as_json: bool) -> None:
        self.run = run
        self._feed = FollowFeed(run.events_dir)
        self._progress = progress_for(run.preset(), as_json, run.manifest().virtual)
        diagnostics.note(f"run {run.path}")

    def poll(self) -> None:
        """Show what is new."""
        self._progress.follow(self._feed)


def _conclude(run: RunDir, job: JobState, as_json: bool) -> int:
    if run.outcome() is None:
        run.write("outcome.json", job.outcome)
        results.store_result(run)
    result = results.load_result(run)
    print_result(result, as_json)
    report_failure(result, run)
    return local.exit_code(result)


def _never_ran(job: JobState, log: Path) -> TgsError:
    return TgsError(
        f"{job.line}: it ended before any rank started",
        hint=f"the job's log says why: {log}",
        exit_code=ExitCode.CANCELLED if job.outcome.status == "cancelled" else ExitCode.CRASHED,
    )
