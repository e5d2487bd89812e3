"""Run a preset's ranks on this machine from start to stored result."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.command import (
    ONE_NODE,
    Node,
    agent_argv,
    as_script,
    rank_environment,
)
from tgsbench.launch.disturbance import DisturbanceMonitor
from tgsbench.launch.traces import collect
from tgsbench.launch.watch import OnEvents, StopSignals, Watch
from tgsbench.presets.work import changed_values
from tgsbench.results import results
from tgsbench.results.export import tensorboard_log
from tgsbench.results.export.series import series_of
from tgsbench.results.forecast import forecast_here
from tgsbench.safe_files import utf8
from tgsbench.schema.events import Event, Trace
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Outcome, Result, VirtualGpu
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.store.staging import discard_partials
from tgsbench.system.child import child_environment
from tgsbench.system.cores import num_cores
from tgsbench.system.environment import describe_environment, host_name
from tgsbench.system.lifetime import process_identity
from tgsbench.system.process import ProcessGroup
from tgsbench.systems import registry
from tgsbench.virtual_gpu import settings

_OTHERS_S = 30.0
"""Patience with the other nodes at the end: an agent takes up to 5 s, NFS shows a file after up to 30 s."""


def prepare_run(
    run: RunDir,
    preset: Preset,
    node: Node = ONE_NODE,
    hosts: tuple[str, ...] = (),
    emulated: bool = False,
    virtual: VirtualGpu | None = None,
) -> Manifest:
    """Write what is known before launch: run.json, command.sh, env.json; `hosts`: of a run over several."""
    python = settings.installation_for(preset).python if virtual else sys.executable
    argv = agent_argv(run.path.resolve(), preset, node, python, emulated, virtual)
    manifest = Manifest(
        run_id=run.run_id,
        preset=preset.rehearsal_of or preset.name,
        engine=preset.engine.name,
        created_unix=time.time(),
        argv=[utf8(word) for word in argv],
        world_size=preset.world_size,
        device=preset.hardware.device,
        host=os.uname().nodename,
        nodes=list(hosts),
        rehearsal_of=preset.rehearsal_of,
        emulated=emulated,
        virtual=virtual,
        forecast=forecast_here(preset, virtual.gpu if virtual else "")[0],
        changed=changed_values(preset),
    )
    try:
        run_dir.write_atomic(run.path / "command.sh", os.fsencode(as_script(argv)))
        run.write("env.json", describe_environment(registry.engine_distributions()))
        run.write("run.json", manifest)
    except OSError as error:
        raise run_dir.unwritable(run.path, error) from error
    return manifest


def supervise(
    run: RunDir, on_events: OnEvents, node: Node = ONE_NODE, stop: StopSignals | None = None
) -> Result:
    """Start the ranks, pass their events on as they come, and store the result.

    SIGINT makes the run `cancelled`, SIGTERM `preempted`; both keep what was measured. A caller that
    listened before the run had a folder gives its `stop`. Events of no rank for measure.stall_s make the
    run `stalled`. Raises TgsError when the folder is being run or was run already.
    """
    preset = run.preset()
    listening = contextlib.nullcontext(stop) if stop else StopSignals()
    with run_dir.claimed(run, node.node_rank), listening as stop:
        run_dir.reserve(run, node.node_rank)
        if node.node_rank == 0:
            _sign(run)
        try:
            outcome = _watched(run, preset, on_events, node, stop)
        except Exception as error:
            _last_words(run, node, error)
            raise
        if outcome.status == "stalled" and node.node_rank:
            outcome.cause = _cut_off(node) or outcome.cause
        outcome.ended_unix, outcome.host = time.time(), host_name()
        outcome.node_rank = node.node_rank
        return _conclude(run, outcome, node)


def _watched(run: RunDir, preset: Preset, on_events: OnEvents, node: Node, stop: StopSignals) -> Outcome:
    """Start this node's ranks and follow them to their end."""
    witness = DisturbanceMonitor(run, preset, node.node_rank)
    watch = Watch(run, preset, _unless_closed(on_events), witness.tick, witness.close)
    child = _start(run, preset, node)
    witness.watches(child)
    return watch.follow(child, stop)


def _last_words(run: RunDir, node: Node, error: Exception) -> None:
    """Leave in the folder why its supervisor failed: later readers would think that it was killed."""
    why = error.msg if isinstance(error, TgsError) else f"{type(error).__name__}: {error}"
    run_dir.release(run, node.node_rank)
    with contextlib.suppress(OSError):
        outcome = Outcome(exit_code=ExitCode.INTERNAL, reason=f"the launcher failed: {why}", host=host_name())
        outcome.node_rank = node.node_rank
        run.write(run_dir.numbered("outcome.json", node.node_rank), outcome)


def _sign(run: RunDir) -> None:
    """Say in run.json which process supervises the run."""

    def sign(manifest: Manifest) -> None:
        manifest.host, manifest.supervisor_pid = os.uname().nodename, os.getpid()
        manifest.supervisor_identity = process_identity(os.getpid())

    try:
        run.change_manifest(sign)
    except OSError as error:
        raise run_dir.unwritable(run.path, error) from error


def _start(run: RunDir, preset: Preset, node: Node) -> ProcessGroup:
    # A later node may start before the first has written run.json; an emulated rank needs one machine.
    manifest = run.manifest() if node.nnodes == 1 else None
    if manifest is not None and manifest.virtual is not None:
        return _start_virtual(run, preset, manifest.virtual)
    argv = agent_argv(run.path.resolve(), preset, node, emulated=manifest is not None and manifest.emulated)
    # An emulated rank on a CPU gets the threads that it would have among the others.
    nproc = preset.world_size // node.nnodes
    interface = "lo" if node.nnodes == 1 else node.interface
    env = rank_environment(preset, child_environment(), num_cores(), nproc, interface)
    return ProcessGroup(
        [*argv, "--parent-pid", str(os.getpid())],
        env,
        run.log_dir / run_dir.numbered("launcher.log", node.node_rank),
    )


def _start_virtual(run: RunDir, preset: Preset, virtual: VirtualGpu) -> ProcessGroup:
    """Start ranks that find a virtual GPU where they look for a driver."""
    found = settings.installation_for(preset)
    argv = agent_argv(run.path.resolve(), preset, python=found.python, virtual=virtual)
    nproc = preset.world_size if virtual.rank is None else 1
    base = rank_environment(preset, child_environment(), num_cores(), nproc)
    env = settings.device_environment(base, preset, virtual, found, run.path.resolve())
    return ProcessGroup([*argv, "--parent-pid", str(os.getpid())], env, run.log_dir / "launcher.log")


def _unless_closed(on_events: OnEvents) -> OnEvents:
    """The same, until its output is closed: a pipe that ends must not end a benchmark of hours."""
    closed = False

    def pass_on(events: list[Event]) -> None:
        nonlocal closed
        if not closed:
            try:
                on_events(events)
            except BrokenPipeError:
                closed = True

    return pass_on


def _conclude(run: RunDir, outcome: Outcome, node: Node) -> Result:
    """Store outcome and result; on a disk that takes nothing more the result is still returned."""
    outcome.disk = outcome.disk or _why_not_written(run, outcome)
    run_dir.release(run, node.node_rank)
    try:
        discard_partials(run.path / "staging")
        run.write(run_dir.numbered("outcome.json", node.node_rank), outcome)
        if node.node_rank:
            return _first_nodes_result(run, outcome)
        missing = _wait_for(run, [run_dir.numbered("outcome.json", n) for n in range(1, node.nnodes)])
        lost = [f"no word from {len(missing)} of {node.nnodes} nodes at the end"] if missing else []
        result = results.store_result(run, [*_collect_traces(run), *lost])
        if not outcome.disk:
            _log_for_tensorboard(run)
        return result
    except OSError as error:
        reason = f"{utf8(run.path)} cannot be written any more: {error.strerror}"
    outcome.disk = outcome.disk or reason
    result = results.result_from_folder(run, outcome)
    result.warnings.append(f"this result is not stored: {reason}")
    return result


def _why_not_written(run: RunDir, outcome: Outcome) -> str:
    """Why events are missing, if the disk takes no more or a rank ended because it could not write."""
    if why := run_dir.why_unwritable(run.path):
        return why
    report = run.launcher_report()
    codes = [exit.exit_code for exit in report.exits] if report else []
    told = ExitCode.STORE in (outcome.exit_code, *codes)
    return f"ranks could not write their events into {utf8(run.path)}" if told else ""


def _log_for_tensorboard(run: RunDir) -> None:
    """Scalars and hparams beside the result, where tensorboard is installed; without them nothing is lost."""
    if not tensorboard_log.is_installed():
        return
    with contextlib.suppress(OSError, ImportError, TgsError, UnicodeError):
        tensorboard_log.write(series_of(run), run.path / tensorboard_log.FOLDER)


def _collect_traces(run: RunDir) -> list[str]:
    """Take captured traces in; returns what went wrong, the run's result is whole either way."""
    if not (run.path / "staging").is_dir():
        return []
    return collect(run.path, [event for event in run.events() if isinstance(event, Trace)])


def _cut_off(node: Node) -> str:
    """Says so when the first node cannot be reached; one that refuses is there and has merely ended."""
    host, _, port = node.rendezvous.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except ConnectionRefusedError:
        return ""
    except OSError as error:
        return f"{host_name()} cannot reach {node.rendezvous} any more: {error.strerror or error}"
    return ""


def _first_nodes_result(run: RunDir, outcome: Outcome) -> Result:
    """What the first node stored; while it has not, or its folder is another one, what can be said here."""
    if _wait_for(run, ["result.json"]) and not (run.path / "run.json").exists():
        raise TgsError(
            f"this node is done (exit code {outcome.exit_code}), but {run.path} is not the first node's",
            hint="copy its events/ and log/ into the first node's run folder, remove result.json there, "
            "and `tgsbench show` it; next time let --output name a folder that all nodes share",
            exit_code=ExitCode.STORE,
        )
    return results.load_result(run)


def _wait_for(run: RunDir, names: list[str]) -> list[str]:
    """Give other nodes, and a network disk, time to write; returns the names that did not appear."""
    deadline_s = time.monotonic() + _OTHERS_S
    while missing := [name for name in names if not (run.path / name).exists()]:
        if time.monotonic() > deadline_s:
            return missing
        time.sleep(0.2)
    return []


def exit_code(result: Result) -> ExitCode:
    """What the command that ran it ends with."""
    if result.failure is not None and result.failure.kind == "disk":
        return ExitCode.STORE
    return _EXIT_CODES[result.status]


_EXIT_CODES = {
    "ok": ExitCode.OK,
    "emulated": ExitCode.OK,
    "virtual": ExitCode.OK,
    "oom": ExitCode.OOM,
    "crashed": ExitCode.CRASHED,
    "stalled": ExitCode.STALLED,
    "cancelled": ExitCode.CANCELLED,
    "preempted": ExitCode.PREEMPTED,
    "invalid": ExitCode.INVALID,
    "refused": ExitCode.BAD_DATA,
    "running": ExitCode.INTERNAL,
}
"""Status of a finished run -> exit code of the command that ran it."""
