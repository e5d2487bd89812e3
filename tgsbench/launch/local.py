"""Run a preset's ranks on this machine from start to stored result."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from tgsbench.errors import ExitCode
from tgsbench.events.tail import RunTail
from tgsbench.launch.command import ONE_NODE, Node, agent_argv, as_script, rank_environment
from tgsbench.launch.process import Child
from tgsbench.schema.events import Event
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Outcome, Result
from tgsbench.store import results, run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.system.environment import describe_environment

_POLL_S = 0.1

OnEvents = Callable[[list[Event]], None]


def prepare_run(run: RunDir, preset: Preset, prediction: dict[str, object] | None = None) -> Manifest:
    """Write what is known before launch: run.json, command.sh, env.json."""
    argv = agent_argv(run.path.resolve(), preset)
    manifest = Manifest(
        run_id=run.run_id,
        preset=preset.rehearsal_of or preset.name,
        engine=preset.engine.name,
        created_unix=time.time(),
        argv=argv,
        world_size=preset.world_size,
        device=preset.hardware.device,
        host=os.uname().nodename,
        rehearsal_of=preset.rehearsal_of,
        prediction=prediction,
    )
    try:
        run_dir.write_atomic(run.path / "command.sh", as_script(argv).encode())
        run.write("env.json", describe_environment())
        run.write("run.json", manifest)
    except OSError as error:
        raise run_dir.unwritable(run.path, error) from error
    return manifest


def supervise(run: RunDir, on_events: OnEvents, node: Node = ONE_NODE) -> Result:
    """Start the ranks, pass their events on as they come, and store the result.

    SIGINT makes the run `cancelled`, SIGTERM `preempted`; both keep what was measured. Events of no rank
    for measure.stall_s make it `stalled`.
    """
    preset, manifest = run.preset(), run.manifest()
    manifest.supervisor_pid = os.getpid()
    run.write("run.json", manifest)
    tail = RunTail(run.events_dir)
    with StopSignals() as stop:
        child = _start(run, preset, node)
        outcome = _watch(child, tail, on_events, stop, preset.measure.stall_s)
    on_events(tail.poll())
    outcome.ended_unix = time.time()
    run.write("outcome.json", outcome)
    return results.store_result(run)


def _start(run: RunDir, preset: Preset, node: Node) -> Child:
    argv = agent_argv(run.path.resolve(), preset, node)
    nproc = preset.world_size // node.nnodes
    env = rank_environment(preset, os.environ, len(os.sched_getaffinity(0)), nproc)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [_package_root(), env.get("PYTHONPATH", "")]))
    return Child([*argv, "--parent-pid", str(os.getpid())], env, run.log_dir / "launcher.log")


def _package_root() -> str:
    """Folder that this very tgsbench was imported from, so that the ranks run the same code."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120


def _watch(child: Child, tail: RunTail, on_events: OnEvents, stop: StopSignals, stall_s: float) -> Outcome:
    last_progress_s = time.monotonic()
    while (code := child.poll()) is None:
        events = tail.poll()
        on_events(events)
        if any(event.__struct_config__.tag != "heartbeat" for event in events):
            last_progress_s = time.monotonic()
        if stop.caught is not None:
            return _stopped(child, stop.caught)
        if time.monotonic() - last_progress_s > stall_s:
            return _stalled(child, stall_s)
        time.sleep(_POLL_S)
    return Outcome(exit_code=code)


def _stopped(child: Child, caught: signal.Signals) -> Outcome:
    code = child.stop()
    if caught == signal.SIGTERM:
        return Outcome(
            status="preempted", exit_code=code, reason="SIGTERM: asked to end; steps so far are kept"
        )
    return Outcome(status="cancelled", exit_code=code, reason=f"{caught.name}: stopped by the user")


def _stalled(child: Child, stall_s: float) -> Outcome:
    code = child.stop()
    return Outcome(
        status="stalled",
        exit_code=code,
        reason=f"no rank made progress for {stall_s:g} s",
        hint="raise measure.stall_s if one step takes longer; the ranks' logs are in the run folder",
    )


class StopSignals:
    """Remembers SIGINT, SIGTERM or SIGHUP instead of dying, for as long as the run goes on."""

    _CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for sig in self._CAUGHT:
            self._before[sig] = signal.signal(sig, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sig, handler in self._before.items():
            signal.signal(sig, handler)  # type: ignore[arg-type]

    def _catch(self, signum: int, _frame: FrameType | None) -> None:
        self.caught = self.caught or signal.Signals(signum)


EXIT_CODES = {
    "ok": ExitCode.OK,
    "emulated": ExitCode.OK,
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


def supervisor_argv(run: RunDir) -> list[str]:
    """The command that supervises a prepared run in a process of its own (the TUI starts it)."""
    return [sys.executable, "-m", "tgsbench", "supervise", str(run.path.resolve())]
