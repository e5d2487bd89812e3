"""Slurm: the script of a job, its submission, and what the scheduler says of it."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.nodes import JOB_PORTS, Placement, job_environment, place
from tgsbench.launch.scheduler import JobState
from tgsbench.presets.catalog import load_references
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Outcome
from tgsbench.store.run_dir import RunDir, list_runs

_SAFE = re.compile(r"[A-Za-z0-9_.,:=/@+%-]+")
"""What may follow #SBATCH or be part of a name: no blank, quote, line break or anything a shell reads."""
_TIME = re.compile(r"\d{1,9}(:\d{1,9}){0,2}|\d{1,5}-\d{1,2}(:\d{1,2}){0,2}")
"""As sbatch(1) lists the forms of --time."""
_GRACE_S = 120
"""SIGTERM comes this long before the time limit, so that what was measured is stored."""
_TIMEOUT_S = 60
OVER = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
     "OUT_OF_MEMORY")
)  # fmt: skip
"""States of a job that will not run again by itself."""


class JobOptions(Struct, frozen=True, kw_only=True):
    """What the user wants of the scheduler; empty: the site's default."""

    partition: Annotated[str, Meta(description="Partition of the nodes.")] = ""
    account: Annotated[str, Meta(description="Account that pays.")] = ""
    qos: Annotated[str, Meta(description="Quality of service of the job.")] = ""
    time: Annotated[str, Meta(description="Time limit.", extra={"metavar": "[D-]HH:MM:SS"})] = ""
    """As Slurm writes it; empty: from the published throughput, or one hour."""
    nnodes: Annotated[
        int, Meta(description="Machines (default: as few as hold the GPUs).", extra={"flag": "--nodes"})
    ] = 0
    container: Annotated[
        str, Meta(description="Container image, for sites with pyxis.", extra={"metavar": "IMAGE"})
    ] = ""
    """What pyxis' --container-image takes."""
    python: Annotated[
        str, Meta(description="Python on the nodes (default: this one; python3 in a container).")
    ] = ""
    env: Annotated[
        tuple[str, ...],
        Meta(description="Variable of the ranks, e.g. NCCL_IB_HCA=mlx5.", extra={"metavar": "KEY=VALUE"}),
    ] = ()
    extra: Annotated[
        tuple[str, ...],
        Meta(description="Any other option of sbatch.", extra={"flag": "--option", "metavar": "KEY=VALUE"}),
    ] = ()
    requeue: Annotated[bool, Meta(description="Let Slurm start the job again after a node failed.")] = False


class Job(Struct, frozen=True):
    """One line of `scontrol show job`, as far as a follower needs it."""

    id: str
    state: str
    reason: str = ""
    start: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: str = ""


def script(preset: Preset, options: Sequence[str], wishes: JobOptions, root: Path) -> str:
    """The sbatch script; `options` choose the preset, `root` is a runs folder that all nodes see.

    Raises TgsError when the ranks do not spread over the nodes or a wish could break out of its line.
    """
    _checked("preset name", preset.name)
    placement = place(preset, wishes.nnodes or -(-preset.world_size // preset.hardware.gpus_per_node))
    python = wishes.python or ("python3" if wishes.container else sys.executable)
    lines = ["#!/bin/bash", *_directives(preset, placement, wishes, root), "set -euo pipefail", ""]
    lines += [*_environment(preset, wishes), ""]
    lines += _command(preset, placement, [python, "-m", "tgsbench", "run", *options, "--headless"], root)
    lines += ["", *_srun(placement, wishes, root)]
    return "\n".join(lines) + "\n"


def job_name(preset: Preset) -> str:
    """Name of the job in the queue."""
    return f"tgs-{preset.name}"


def time_limit(preset: Preset) -> tuple[str, str]:
    """Slurm time limit and how it came about: twice the published pace plus 15 minutes, or one hour."""
    rows = load_references().get(preset.rehearsal_of or preset.name, [])
    row = next((row for row in rows if row.tgs), None)
    if row is None or row.tgs is None or preset.hardware.device == "cpu":
        return "01:00:00", "no published pace: one hour"
    steps = preset.measure.warmup + preset.measure.steps
    step_s = preset.tokens_per_step / (row.tgs * preset.world_size)
    minutes = math.ceil((2 * steps * step_s + 900) / 300) * 5
    days, rest = divmod(minutes, 24 * 60)
    text = f"{days}-" * bool(days) + f"{rest // 60:02}:{rest % 60:02}:00"
    return text, f"{steps} steps at twice the published {step_s:.0f} s, plus 15 minutes"


def _directives(preset: Preset, placement: Placement, wishes: JobOptions, root: Path) -> list[str]:
    limit, why = (_checked_time(wishes.time), "as asked") if wishes.time else time_limit(preset)
    wanted = {
        "job-name": job_name(preset),
        "partition": wishes.partition,
        "account": wishes.account,
        "qos": wishes.qos,
        "nodes": str(placement.nnodes),
        "ntasks-per-node": "1",
        "gres": f"gpu:{placement.nproc_per_node}" if preset.hardware.device == "cuda" else "",
        "time": limit,
        "signal": f"TERM@{_GRACE_S}",
        "output": f"{log_dir(root)}/%j.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={_checked(key, value)}" for key, value in wanted.items() if value]
    lines += ["#SBATCH --exclusive", "#SBATCH --mem=0", f"#SBATCH --{'' if wishes.requeue else 'no-'}requeue"]
    lines += [f"#SBATCH --{_checked('extra', option)}" for option in wishes.extra]
    notes = [f"# Time limit: {why}. SIGTERM comes {_GRACE_S} s before it: what was measured is kept."]
    if placement.note:
        notes.append(f"# {placement.note}.")
    return [*lines, "", f"# {preset.world_size} ranks: {placement.nproc_per_node} on each node.", *notes]


def _checked_time(text: str) -> str:
    """A time limit in one of the forms that sbatch reads; TgsError for anything else, and for none at all."""
    if not _TIME.fullmatch(_checked("time", text)) or not any(digit in "123456789" for digit in text):
        raise TgsError(
            f"--time {text}: no time limit",
            hint="minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS, such as --time 04:00:00",
        )
    return text


def _environment(preset: Preset, wishes: JobOptions) -> list[str]:
    env = job_environment(preset, wishes.env)
    lines = [f"export {key}={shlex.quote(value)}" for key, value in env.items()]
    note = (
        "# GLOO_ and NCCL_SOCKET_IFNAME, unless set here, become the interface that leads to the first node."
    )
    return [note, *lines]


def _command(preset: Preset, placement: Placement, argv: list[str], root: Path) -> list[str]:
    """The batch shell's part: a name that starts with the time, and where the nodes meet."""
    lines = [f'name="$(date -u +%Y%m%dT%H%M%S)-{preset.name}-j$SLURM_JOB_ID"']
    words = [shlex.join(argv), f"--output {shlex.quote(str(root.absolute()))}", '--name "$name"']
    if placement.nnodes > 1:
        lines += [
            'nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)',
            "# The first node's address, which need not be its name; a port of this job's own.",
            "address=$(scontrol show node \"${nodes%%,*}\" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)",
            f"port=$(({JOB_PORTS.start} + SLURM_JOB_ID % {len(JOB_PORTS)}))",
        ]
        words += ['--nodes "$nodes"', '--rendezvous "$address:$port"']
    return [*lines, "command=(", *(f"    {word}" for word in words), ")"]


def _srun(placement: Placement, wishes: JobOptions, root: Path) -> list[str]:
    """One task a node starts torch's elastic agent, which starts the ranks."""
    # A node's bad exit must not kill the first one while it stores the result.
    srun = "exec srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --wait=120"
    if wishes.container:
        where = shlex.quote(str(root.absolute()))
        srun += f" --container-image={shlex.quote(wishes.container)} --container-mounts={where}:{where}"
    comment = "# One task a node: torch's elastic agent (what torchrun runs) starts the ranks of its node."
    if placement.nnodes == 1:
        return [comment, f'{srun} "${{command[@]}}"']
    return [
        comment,
        f"{srun} \\",
        '    bash -c \'exec "$@" --node-rank "$SLURM_NODEID"\' node "${command[@]}"',
    ]


def log_dir(root: Path) -> Path:
    """Where the scripts and the jobs' own logs lie."""
    return root.absolute() / "slurm"


def submit(text: str, preset: Preset, root: Path) -> tuple[str, Path]:
    """Keep the script beside the runs and hand it to sbatch; returns the job's number and the script.

    Raises TgsError when the script cannot be written, or sbatch refuses it.
    """
    folder = log_dir(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{preset.name}.sbatch"
        draft.write_text(text)
        job_id = _run(["sbatch", "--parsable", str(draft)]).strip().partition(";")[0]
        return job_id, draft.replace(folder / f"{job_id}.sbatch")
    except OSError as error:
        raise TgsError(f"cannot write {folder}: {error.strerror}", exit_code=ExitCode.STORE) from error


def show(job_id: str) -> Job | None:
    """The job as the scheduler knows it, or None once it has forgotten it."""
    try:
        return parse_job(_run(["scontrol", "show", "job", "--oneliner", job_id]))
    except TgsError as error:
        if "Invalid job id" in error.msg:
            return None
        raise


def parse_job(text: str) -> Job:
    """Read one line of `scontrol show job --oneliner`; what is missing is empty."""
    fields = dict(pair for word in text.split() if len(pair := word.split("=", 1)) == 2)
    return Job(
        id=fields.get("JobId", ""),
        state=fields.get("JobState", "UNKNOWN"),
        reason=_unless_none(fields.get("Reason", "")),
        start=_unless_none(fields.get("StartTime", "")),
        nodes=_unless_none(fields.get("NodeList", "")),
        restarts=units.parse_count(fields.get("Restarts", "0")) or 0,
        exit_code=fields.get("ExitCode", ""),
    )


def cancel(job_id: str) -> None:
    """Ask the job's steps to end as Ctrl-C would; a job that waits leaves the queue."""
    job = show(job_id)
    if job is not None and job.state == "RUNNING":
        _run(["scancel", "--signal=INT", job_id])
    else:
        _run(["scancel", job_id])


def runs_of(root: Path, job_id: str) -> list[RunDir]:
    """The run folders of a job, newest first: one for each time it was started."""
    return [run for run in list_runs(root) if run.run_id.endswith(f"-j{job_id}")]


def describe(job: Job) -> str:
    """One line for people."""
    words = [f"job {job.id}: {job.state.lower()}"]
    if job.state == "PENDING":
        words += [f"({job.reason})"] * bool(job.reason) + [f"expected start {job.start}"] * bool(job.start)
    elif job.nodes:
        words.append(f"on {job.nodes}")
    if job.restarts:
        words.append(f"after {units.counted(job.restarts, 'requeue')}")
    if job.state in OVER and job.state != "COMPLETED":
        words += [f"({job.reason})"] * bool(job.reason)
    return " ".join(words)


def outcome_of(job: Job) -> Outcome:
    """What the scheduler's word means for a run whose supervisor could not tell."""
    reason = f"Slurm ended job {job.id}: {job.state}" + (f" ({job.reason})" if job.reason else "")
    if job.state in ("TIMEOUT", "PREEMPTED", "DEADLINE"):
        return Outcome(status="preempted", reason=reason)
    if job.state == "CANCELLED":
        return Outcome(status="cancelled", reason=reason)
    return Outcome(exit_code=1, reason=reason, oom_kills=int(job.state == "OUT_OF_MEMORY"))


class Slurm:
    """Slurm as launch/scheduler.py wants it."""

    title = "Slurm"
    help = "Print a preset's sbatch script; with --submit run it."
    list_hint = "`squeue --me` lists yours"
    options = JobOptions
    render = staticmethod(script)
    submit = staticmethod(submit)
    cancel = staticmethod(cancel)
    runs_of = staticmethod(runs_of)

    def look(self, job_id: str) -> JobState | None:
        """The job as scontrol shows it."""
        job = show(job_id)
        return None if job is None else JobState(job.id, describe(job), job.state in OVER, outcome_of(job))

    def log_path(self, root: Path, job_id: str) -> Path:
        """What --output of the script says."""
        return log_dir(root) / f"{job_id}.log"


SCHEDULER = Slurm()


def _checked(key: str, value: str) -> str:
    if not _SAFE.fullmatch(value):
        raise TgsError(f"{key} {value!r}: may hold letters, digits and _.,:=/@+%- only")
    return value


def _unless_none(text: str) -> str:
    return "" if text in ("None", "(null)", "Unknown", "N/A") else text


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise TgsError(
            f"{argv[0]} is not installed here",
            hint="run this on a login node of the cluster, or leave --submit out to print the script",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TgsError(f"{argv[0]} did not answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        raise TgsError(f"{argv[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
