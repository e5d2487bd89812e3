"""`tgsbench slurm`: the sbatch script of a preset; submit it, follow the job, cancel it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tgsbench import presets
from tgsbench.cli import diagnostics, output
from tgsbench.cli.progress import progress_for
from tgsbench.cli.run import print_result, report_failure
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local, nodes
from tgsbench.launch import slurm as scheduler
from tgsbench.live.follow import FollowFeed
from tgsbench.results import results
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

_POLL_S = 2.0
"""Between two questions to the scheduler; sites ask for no more than one every few seconds."""


@click.command()
@click.option("--preset", "name", help="Name of a preset, or path of a .toml file.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@click.option("--partition", default="")
@click.option("--account", default="")
@click.option("--qos", default="")
@click.option("--time", "limit", default="", metavar="[D-]HH:MM:SS", help="Time limit.")
@click.option("--nodes", "nnodes", type=int, default=0, help="Machines (default: as few as hold the GPUs).")
@click.option("--container", default="", metavar="IMAGE", help="Container image, for sites with pyxis.")
@click.option("--python", default="", help="Python on the nodes (default: this one; python3 in a container).")
@click.option(
    "--env", multiple=True, metavar="KEY=VALUE", help="Variable of the ranks, e.g. NCCL_IB_HCA=mlx5."
)
@click.option("--option", "extra", multiple=True, metavar="KEY=VALUE", help="Any other option of sbatch.")
@click.option("--requeue", is_flag=True, help="Let Slurm start the job again after a node failed.")
@click.option("--submit", is_flag=True, help="Submit it and follow the job; Ctrl-C lets it go on alone.")
@click.option("--detach", is_flag=True, help="With --submit: do not follow.")
@click.option("--follow", metavar="JOB", help="Follow a job that was submitted before.")
@click.option("--cancel", metavar="JOB", help="Ask a job to end; what it measured is kept.")
@click.option("--json", "as_json", is_flag=True, help="When following: print result.json at the end.")
@click.option(
    "--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Shared runs folder."
)
def slurm(
    name: str | None,
    sets: tuple[str, ...],
    limit: str,
    nnodes: int,
    python: str,
    submit: bool,
    detach: bool,
    follow: str | None,
    cancel: str | None,
    as_json: bool,
    folder: Path | None,
    **wishes: str | bool | tuple[str, ...],
) -> None:
    """Print a preset's sbatch script; with --submit run it."""
    root = run_dir.runs_root(folder)
    if cancel:
        scheduler.cancel(cancel)
        diagnostics.note(f"job {cancel} was asked to end; `tgsbench runs` lists what it measured")
        return
    if follow is None:
        if name is None:
            raise TgsError("--preset is missing", hint="tgsbench slurm --preset llama2_70b_32k")
        preset = presets.resolve(presets.named(name), sets).preset
        asked = scheduler.JobOptions(time=limit, nnodes=nnodes, **wishes)  # type: ignore[arg-type]
        text = scheduler.script(preset, nodes.preset_options(name, sets, False), asked, root, python)
        if not submit:
            output.line(text.rstrip())
            return
        follow, script = scheduler.submit(text, preset, root)
        diagnostics.note(f"job {follow} submitted: {script}")
    if detach:
        output.line(follow)
        return
    sys.exit(_follow(follow, root, as_json))


def _follow(job_id: str, root: Path, as_json: bool) -> int:
    try:
        return _until_over(job_id, root, as_json)
    except KeyboardInterrupt:
        diagnostics.note(f"job {job_id} goes on; tgsbench slurm --follow {job_id}, or --cancel {job_id}")
        return ExitCode.OK


def _until_over(job_id: str, root: Path, as_json: bool) -> int:
    """Narrate the job's states and its runs' events; returns the exit code of the last run's status."""
    said, last, watched = "", None, None
    while True:
        job = scheduler.show(job_id)
        if job is not None and (line := scheduler.describe(job)) != said:
            diagnostics.note(line)
            said = line
        last = job or last
        runs = scheduler.runs_of(root, job_id)
        if runs and (watched is None or watched.run.run_id != runs[0].run_id):
            watched = _Watched(runs[0], as_json)
        if watched is not None:
            watched.poll()
        if job is None or job.state in scheduler.OVER:
            break
        time.sleep(_POLL_S)
    if last is None:
        raise TgsError(f"Slurm knows no job {job_id}", hint="`squeue --me` lists yours")
    if watched is None:
        raise _never_ran(last, root)
    return _conclude(watched.run, last, as_json)


class _Watched:
    """One run of the job and its progress on the screen."""

    def __init__(self, run: RunDir, as_json: bool) -> None:
        self.run = run
        self._feed = FollowFeed(run.events_dir)
        self._progress = progress_for(run.preset(), to_stderr=as_json)
        diagnostics.note(f"run {run.path}")

    def poll(self) -> None:
        """Show what is new."""
        self._progress.follow(self._feed)


def _conclude(run: RunDir, job: scheduler.Job, as_json: bool) -> int:
    if run.outcome() is None:
        run.write("outcome.json", scheduler.outcome_of(job))
        results.store_result(run)
    result = results.load_result(run)
    print_result(result, as_json)
    report_failure(result, run)
    return local.EXIT_CODES[result.status]


def _never_ran(job: scheduler.Job, root: Path) -> TgsError:
    log = scheduler.log_dir(root) / f"{job.id}.log"
    return TgsError(
        f"{scheduler.describe(job)}: it ended before any rank started",
        hint=f"the job's log says why: {log}",
        exit_code=ExitCode.CANCELLED if job.state == "CANCELLED" else ExitCode.CRASHED,
    )
