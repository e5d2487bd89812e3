"""`tgsbench run`: launch a preset and measure its TGS."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_idle, refuse_together
from tgsbench.cli.progress import RunProgress, progress_for
from tgsbench.cli.repeats import print_repeats
from tgsbench.cli.terminal import print_running, require_terminal
from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.launch import detached, launchers, local, preflight
from tgsbench.launch import nodes as several
from tgsbench.launch import repeats as repeating
from tgsbench.launch.command import ONE_NODE, Node
from tgsbench.launch.watch import StopSignals
from tgsbench.presets.recipes import load_recipe
from tgsbench.report.forecast import forecast_text
from tgsbench.report.summary import next_command, summary_lines, tgs_text
from tgsbench.results.forecast import forecast_note
from tgsbench.results.repeats import summed_up
from tgsbench.results.results import load_result
from tgsbench.safe_files import one_line
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result, VirtualGpu
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.systems import environments, support

_NEVER_TOGETHER = (
    ("ascii_only", "headless"),
    ("ascii_only", "as_json"),
    ("profile", "emulate"),
    ("repeats", "nodes"),
    ("repeats", "emulate"),
    ("repeats", "virtual_gpu"),
    ("metrics", "emulate"),
)


@click.command()
@click.option(
    "--preset",
    "name",
    required=True,
    shell_complete=complete.presets,
    help="Name of a preset, or path of a .toml file.",
)
@click.option(
    "--model",
    shell_complete=complete.models,
    help="Model to train instead: a name of `tgsbench models`, or a config.json.",
)
@click.option("--headless", is_flag=True, help="Print progress here instead of opening the live view.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw the live view with ASCII characters only.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document: result.json.")
@click.option(
    "--engine",
    shell_complete=complete.engines,
    help="Engine that trains, of those that `tgsbench engines` lists.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Keep this interpreter for an external --engine; run it there.",
)
@click.option("--steps", type=int, help="Measured optimizer steps.")
@click.option("--warmup", type=int, help="Optimizer steps run first and dropped.")
@click.option("--nproc", type=int, help="Number of ranks (GPUs) to use instead of the preset's.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@click.option(
    "--profile",
    metavar="[RECIPE]",
    is_flag=False,
    flag_value="hotspots",
    help="Capture profiler traces after the measured steps (hotspots).",
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs (./runs).")
@click.option("--rehearse", is_flag=True, help="Shrink the preset to what this machine can run.")
@click.option(
    "--emulate-rank",
    "emulate",
    is_flag=True,
    help="One process runs one rank of the preset's mesh; communication comes from the planner's model.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=2),
    help="Measure so often, each time in fresh processes; comparisons use the spread between runs.",
)
@click.option(
    "--virtual-gpu",
    "virtual_gpu",
    default="",
    metavar="GPU",
    help="Run on a GPU that is not there: memory, calls and host time, no speed (see `tgsbench doctor`).",
)
@click.option("--rank", default="0", metavar="K|all", help="Of --virtual-gpu: the rank that runs, or all.")
@click.option(
    "--name", "run_name", default="", help="Name of the run's folder (default: time, preset, a tag)."
)
@click.option(
    "--nodes",
    metavar="HOST,HOST,…|auto",
    help="Machines to run on: prints the command of each; auto: as this machine's launcher says.",
)
@click.option("--node-rank", type=int, help="Run this machine's part: its place in --nodes, from 0.")
@click.option(
    "--rendezvous", default="", metavar="HOST:PORT", help="Where the machines meet (the first one)."
)
@click.option(
    "--metrics-port",
    "metrics",
    default="",
    metavar="[HOST:]PORT",
    help="Answer Prometheus while it runs: TGS, MFU, memory, step, status (on 127.0.0.1).",
)
def run(
    name: str,
    model: str | None,
    headless: bool,
    ascii_only: bool,
    as_json: bool,
    engine: str | None,
    python: Path | None,
    steps: int | None,
    warmup: int | None,
    nproc: int | None,
    sets: tuple[str, ...],
    profile: str | None,
    output: Path | None,
    rehearse: bool,
    emulate: bool,
    repeats: int | None,
    virtual_gpu: str,
    rank: str,
    run_name: str,
    nodes: str | None,
    node_rank: int | None,
    rendezvous: str,
    metrics: str,
) -> None:
    """Launch a preset and measure its TGS."""
    refuse_idle({"rendezvous": "nodes", "node_rank": "nodes"})
    refuse_together(*_NEVER_TOGETHER)
    # The live view shows steps, of which an emulated rank has none: its projection is told at the end.
    in_terminal = not (headless or as_json or nodes or emulate or repeats) and sys.stdout.isatty()
    if in_terminal and metrics:
        raise TgsError("--metrics-port goes with --headless: the live view runs in a process of its own")
    if in_terminal:
        require_terminal(f"tgsbench run --preset {name} --headless")
    flags = {"model": model, "engine.name": engine, "measure.steps": steps, "measure.warmup": warmup}
    flags |= {"hardware.num_gpus": nproc, "profile": profile}
    assignments = [*sets, *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    _check_virtual(virtual_gpu, rank, alone=not (nodes or node_rank is not None or emulate))
    preset = api.load_preset(name, assignments, rehearse=rehearse, virtual_gpu=virtual_gpu)
    virtual = api.on_virtual_gpu(preset, virtual_gpu, rank) if virtual_gpu else None
    if python is not None:
        environments.name_python(preset.engine.name, python)
    root = run_dir.runs_root(output)
    if nodes or node_rank is not None:
        _require_nodes(preset, emulate)
        part = _part(nodes or "", node_rank, rendezvous, run_name)
        options = several.preset_options(name, assignments, rehearse)
        sys.exit(_run_part(part, preset, options, root, as_json, metrics))
    _check_machine(preset, emulate, virtual)
    if repeats:
        sys.exit(_run_repeats(preset, root, run_name, repeats, as_json, metrics))
    with StopSignals() as stop:
        run_folder = _prepared(root, preset, run_name, emulate, virtual)
        if not in_terminal:
            result = run_headless(run_folder, preset, as_json, stop=stop, metrics=metrics)
            sys.exit(_exit_code(result, run_folder))
    if stop.caught is not None:
        detached.discard(run_folder)  # nothing was started: no run without a status is left
        stop.send_on()
    _open_live_view(run_folder, ascii_only)


def _check_machine(preset: Preset, emulate: bool, virtual: VirtualGpu | None) -> None:
    """Refuse what this machine cannot run; tell of a launcher's other machines that the run leaves out."""
    api.check_machine(preset, emulate_rank=emulate, virtual=virtual)
    if not (virtual or preset.is_external) and (told := launchers.one_of(os.environ)):
        diagnostics.warn(told, "--nodes auto joins them")


def _run_repeats(preset: Preset, root: Path, name: str, num_runs: int, as_json: bool, metrics: str) -> int:
    """Run a group one after the other and tell its row; returns the first exit code that is not 0."""
    group, codes = repeating.free_group(root, preset, name), list[int]()

    def supervise(run_folder: RunDir, index: int) -> Result:
        diagnostics.note(f"run {index} of {num_runs}")
        result = _supervised(run_folder, preset, as_json, ONE_NODE, stop, metrics)
        report_failure(result, run_folder)
        codes.append(_exit_code(result, run_folder))
        diagnostics.note(f"run {index} of {num_runs}: {result.status}, TGS {tgs_text(result)}")
        return result

    with StopSignals() as stop:
        found = repeating.run_all(preset, root, group, num_runs, supervise)
    print_repeats(summed_up(group, found), as_json)
    return next((int(code) for code in codes if code), 0)


def _part(nodes: str, node_rank: int | None, rendezvous: str, name: str) -> several.NodePart:
    """This machine's part, as the options or, for `--nodes auto`, the launcher's variables say it.

    Raises TgsError when they do not; ends a process that its launcher started besides its machine's first.
    """
    if nodes != launchers.AUTO:
        return several.NodePart(several.parse_nodes(nodes), node_rank, rendezvous, name)
    if node_rank is not None or rendezvous:
        raise TgsError("--nodes auto takes both from the launcher: leave --node-rank and --rendezvous out")
    part, is_first_here = launchers.from_environment(os.environ, name)
    if not is_first_here:
        diagnostics.note("this machine's first process starts its ranks: nothing to do in this one")
        sys.exit(ExitCode.OK)
    return part


def _require_nodes(preset: Preset, emulate: bool) -> None:
    """Raise TgsError when this preset cannot run over several machines."""
    if preset.profile:
        load_recipe(preset.profile)
    if preset.is_external:
        support.refuse_option(preset, "--emulate-rank" if emulate else "--nodes")
    if emulate:
        preflight.check_emulation(preset, on_several=True)


def _check_virtual(gpu: str, rank: str, *, alone: bool) -> None:
    """Raise TgsError for options that --virtual-gpu does not go with, or that need it."""
    if gpu and not alone:
        raise TgsError("--virtual-gpu goes with neither --nodes, --node-rank nor --emulate-rank")
    if rank != "0" and not gpu:
        raise TgsError(f"--rank {rank} is of --virtual-gpu", hint="add --virtual-gpu H100-SXM5-80GB")


def _prepared(root: Path, preset: Preset, run_name: str, emulate: bool, virtual: VirtualGpu | None) -> RunDir:
    run_folder = api.prepare(preset, root, run_name, emulate_rank=emulate, virtual=virtual)
    forecast = run_folder.manifest().forecast
    if emulate and not (forecast and forecast.time):
        diagnostics.warn("no forecast, so no time for communication", "tgsbench plan says why")
    return run_folder


def _run_part(
    part: several.NodePart, preset: Preset, options: list[str], root: Path, as_json: bool, metrics: str
) -> ExitCode:
    """This machine's ranks, or, where it is not said which machine it is, what to type on each."""
    if part.node_rank is None:
        _print_commands(part, preset, options, root, as_json)
        return ExitCode.OK
    run_folder = several.prepare(part, preset, root)
    result = run_headless(run_folder, preset, as_json, part.node(preset), metrics=metrics)
    return local.exit_code(result)


def _print_commands(
    part: several.NodePart, preset: Preset, options: list[str], root: Path, as_json: bool
) -> None:
    """The command of each machine, to copy there."""
    placement = several.place(preset, len(part.hosts))
    commands = part.commands(preset, options, root)
    if as_json:
        output.json([{"host": host, "argv": argv} for host, argv in commands])
        return
    diagnostics.note(
        f"{placement.nnodes} nodes x {placement.nproc_per_node} ranks; a folder all nodes share: {root}"
    )
    if placement.note:
        diagnostics.warn(placement.note)
    for host, argv in commands:
        output.line(f"# on {host}\n{shlex.join(argv)}")


def run_headless(
    run_folder: RunDir,
    preset: Preset,
    as_json: bool,
    node: Node = ONE_NODE,
    stop: StopSignals | None = None,
    metrics: str = "",
) -> Result:
    """Supervise the run from this process, with progress on the right stream, and print its result."""
    result = _supervised(run_folder, preset, as_json, node, stop, metrics)
    try:
        print_result(result, as_json)
        if result.profile is not None and result.profile.traces and not as_json:
            _print_hotspots(run_folder)
            result = _after_analysis(run_folder, result)
    except BrokenPipeError:
        output.detach_stdout()
    report_failure(result, run_folder)
    return result


def _supervised(
    run_folder: RunDir, preset: Preset, as_json: bool, node: Node, stop: StopSignals | None, metrics: str
) -> Result:
    virtual = run_folder.manifest().virtual if node.node_rank == 0 else None
    with progress_for(preset, as_json, virtual) as progress:
        progress.narrate(f"run {run_folder.path}")
        if node.node_rank == 0:  # run.json is the first node's: another node may come before it is there
            _say_forecast(progress, preset, run_folder.manifest().forecast)
        # The first node tells of all ranks: it has the run's manifest, and its folder their events.
        with _served(run_folder, metrics if node.node_rank == 0 else "", progress):
            return local.supervise(run_folder, progress.update, node, stop)


@contextlib.contextmanager
def _served(run_folder: RunDir, address: str, progress: RunProgress) -> Iterator[None]:
    """Answer Prometheus at the address while the block runs; without one, only run it."""
    if not address:
        yield
        return
    try:
        from tgsbench.live import open_metrics
    except ImportError as error:
        raise TgsError(
            "--metrics-port needs prometheus-client",
            hint=f"try: {pip_install('metrics')}",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    with open_metrics.serving(run_folder, address) as url:
        progress.narrate(f"metrics at {url}")
        yield


def _say_forecast(progress: RunProgress, preset: Preset, forecast: Forecast | None) -> None:
    if text := forecast_text(forecast):
        progress.narrate(f"predicted {text}")
    if note := forecast_note(preset, forecast):
        progress.narrate(note)


def print_result(result: Result, as_json: bool) -> None:
    """Print a result for people, or as one JSON document."""
    if as_json:
        output.json(result)
        return
    for line in summary_lines(result):
        output.line(line)
    output.line(f"{'folder':<11} {one_line(result.run_dir)}")
    if result.failure is None:
        output.line(f"{'next':<11} {next_command(result)}")


def _print_hotspots(run_folder: RunDir) -> None:
    """Where the profiled steps' time went; a trace that cannot be analysed leaves the result as it is."""
    from tgsbench.report.profile import shares_line

    try:
        profile = api.profile(run_folder.path, processes=None)
    except TgsError as error:
        diagnostics.warn(error.msg, error.hint)
        return
    output.line(f"{'hotspots':<11} {shares_line(profile)}")
    diagnostics.note(f"tgsbench profile {run_folder.run_id} tells more")


def _after_analysis(run_folder: RunDir, before: Result) -> Result:
    """The result once its traces were read: a rate beyond the hardware's makes it invalid."""
    after = load_result(run_folder)
    new = [text for text in after.integrity.problems if text not in before.integrity.problems]
    if not new:
        return before
    diagnostics.warn(
        f"{after.status}: {'; '.join(new)}", "tgsbench verify finds out whether the work is done"
    )
    return after


def report_failure(result: Result, run_folder: RunDir) -> None:
    """Say on stderr what went wrong, first the root cause."""
    failure = result.failure
    if failure is None:
        for problem in result.integrity.problems:
            diagnostics.error(
                f"integrity: {problem}", "do not use this number; `tgsbench verify` finds the cause"
            )
        return
    where = (
        f" (rank {failure.rank}{f' on {failure.host}' if failure.host else ''})"
        if failure.rank is not None
        else ""
    )
    diagnostics.error(f"{result.status}{where}: {failure.reason}", failure.hint)
    if failure.forecast:
        diagnostics.note(f"  {failure.forecast}")
    if failure.traceback:
        diagnostics.note(failure.traceback.rstrip())
    diagnostics.note(f"  logs: {run_folder.log_dir}")


def _exit_code(result: Result, run_folder: RunDir) -> int:
    if result.status == "refused":
        codes = [e.exit_code for e in run_folder.events() if hasattr(e, "exit_code")]
        return codes[0] if codes else ExitCode.BAD_DATA
    code = local.exit_code(result)
    if code == ExitCode.OK and run_folder.result() is None:
        diagnostics.error(
            f"the result above is not stored: {run_folder.path} takes nothing more",
            f"make room, then `tgsbench show {run_folder.run_id}` derives it from the events that were kept",
        )
        return ExitCode.STORE
    return code


def _open_live_view(run_folder: RunDir, ascii_only: bool) -> None:
    try:
        from tgsbench.tui.app import open_live
    except ImportError as error:
        raise TgsError(
            f"the live view cannot open: {error}",
            hint="add --headless",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    print_running(open_live(run_folder.path, ascii_only=ascii_only))
