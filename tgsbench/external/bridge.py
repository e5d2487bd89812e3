"""Runs another system's ranks under torchrun, follows its log, and writes the events that our ranks would."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.emitter import Emitter
from tgsbench.external import exit_report, observed
from tgsbench.external.activity import Activity
from tgsbench.external.adapter import Adapter, StepReport, num_steps
from tgsbench.external.process import PEER, VIRTUAL_GPU, ExternalProcess, peer_environment, tail
from tgsbench.schema.events import (
    Bye,
    Claimed,
    Error,
    Event,
    Heartbeat,
    Hello,
    Kernel,
    Phase,
    PhaseName,
    Step,
    Warn,
)
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.system import build_locks
from tgsbench.system.environment import host_name
from tgsbench.system.gpus import list_gpus
from tgsbench.system.lifetime import die_with_parent, die_with_parent_argv
from tgsbench.system.process import ProcessGroup
from tgsbench.systems import environments, support
from tgsbench.systems.entry import load_entry
from tgsbench.systems.registry import engine_of
from tgsbench.systems.spec import External
from tgsbench.units import GIB

_POLL_S = 0.5
_MISCOUNTED = 0.005
"""A step whose tokens are further than this from the preset's is not the step that was asked for."""


def main(argv: list[str] | None = None) -> int:
    """Run the ranks of RUN_DIR to their end; returns the exit code."""
    args = _parse(argv)
    die_with_parent(signal.SIGTERM, args.parent_pid)
    stop = _Stop()
    run = RunDir(args.run_dir)
    bridge = ExternalRun(run, run.preset(), stop)
    try:
        return bridge.run()
    except TgsError as error:
        kind = "unsupported" if error.exit_code == ExitCode.UNSUPPORTED else "refused"
        return bridge.fail(Error(kind=kind, msg=error.msg, hint=error.hint, exit_code=error.exit_code))


class _Stop:
    """Remembers that this process was asked to end."""

    def __init__(self) -> None:
        self.asked = False
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._catch)

    def _catch(self, *_: object) -> None:
        self.asked = True


class ExternalRun:
    """One run of another system."""

    def __init__(self, run: RunDir, preset: Preset, stop: _Stop) -> None:
        self._run, self._preset, self._stop = run, preset, stop
        self._adapter = load_adapter(preset)
        self._folder = run.path.resolve() / observed.FOLDER
        self._log = run.log_dir / f"{self._adapter.name}.log"
        manifest = run.manifest()
        self._on_virtual_gpu = manifest.virtual is not None
        self._ranks = manifest.started_ranks
        self._emitters = [Emitter(run.events_dir / f"rank{rank:05d}.jsonl", rank) for rank in self._ranks]
        self._num_reported = 0
        self._padded = 0.0
        self._resident = [0] * len(self._ranks)
        """Bytes of each CPU rank, as last looked at."""
        self._is_observed = self._on_virtual_gpu or observed.is_wanted(preset)
        self._heartbeat_s = 0.0
        self._activity = Activity(self._log, ranks_compute=preset.hardware.device == "cpu")

    def run(self) -> int:
        """Write configuration and data, start the ranks, and turn their log into events."""
        support.check(self._preset, self._on_virtual_gpu)
        environment = environments.require(self._adapter.name, self._on_virtual_gpu)
        self._hello(environment)
        if told := environments.untested(environment):
            hint = f"{environments.setup_command(self._adapter.name)} makes an environment with that release"
            self._emitters[0].emit(Warn(code="untested_release", msg=told, hint=hint))
        self._phase("data")
        self._folder.mkdir()
        try:
            self._prepare(environment.python)
            code = self._follow(environment.python)
        finally:
            self._adapter.clean(self._folder)
        return self._end(code)

    def fail(self, error: Error) -> int:
        """Write the error event that says why nothing was trained."""
        self._emitters[0].emit(error)
        self._each(lambda _: Bye(status=error.kind))
        return error.exit_code

    def _hello(self, environment: environments.EngineEnvironment) -> None:
        device = os.environ["TGSBENCH_VGPU_NAME"] if self._on_virtual_gpu else self._device()
        for rank, emitter in enumerate(self._emitters):
            emitter.emit(
                Hello(
                    world=self._preset.world_size,
                    host=host_name(),
                    device=device,
                    local_rank=rank,
                    unix_t=time.time(),
                    versions=environment.versions,
                )
            )

    def _device(self) -> str:
        gpus = list_gpus() if self._preset.hardware.device == "cuda" else []
        return gpus[0].name if gpus else "cpu"

    def _prepare(self, python: str) -> None:
        preset, adapter = self._preset, self._adapter
        for name, text in adapter.files(preset, self._folder).items():
            (self._folder / name).write_text(text, "utf-8")
        data, warnings = adapter.prepare(preset, self._folder, self._peer(python), self._say)
        whole = data.num_tokens + data.tokens_padded
        self._padded = data.tokens_padded / whole if whole else 0.0
        self._emitters[0].emit(data)
        for warning in warnings:
            self._emitters[0].emit(warning)
        self._emitters[0].emit(Kernel(name=adapter.kernel(preset), reason=f"chosen by {adapter.name}"))

    def _follow(self, python: str) -> int:
        self._phase("build")
        # `python -m` imports from the folder it is started in, and one of 3.10 cannot be told not to.
        empty = self._folder / "cwd"
        empty.mkdir(exist_ok=True)
        env = self._env(python)
        build_locks.remove_abandoned(
            Path(env["TORCH_EXTENSIONS_DIR"]), lambda text: self._phase("build", text)
        )
        child = ProcessGroup(die_with_parent_argv(self._argv(python)), env, self._log, empty)
        try:
            while child.poll() is None and not self._stop.asked:
                self._watch(child)
                time.sleep(_POLL_S)
        finally:
            code = child.poll()
            if code is None:
                code = child.stop()
        self._report(child, ended=True)
        return code

    def _peer(self, python: str) -> ExternalProcess:
        # What comes before training is none of the virtual GPU's log.
        env = self._env(python) | ({VIRTUAL_GPU: ""} if self._on_virtual_gpu else {})
        return ExternalProcess(python, env, self._log, self._stop, self._beat)

    def _env(self, python: str) -> dict[str, str]:
        # Ops of one torch do not load in another: builds of two environments must not meet in one folder.
        own = {"TORCH_EXTENSIONS_DIR": str(environments.extensions_dir(self._adapter.name, python))}
        return own | peer_environment(self._preset, self._adapter.environment(self._preset), os.environ)

    def _argv(self, python: str) -> list[str]:
        if self._on_virtual_gpu:
            argv = [python, str(PEER / "lone_rank.py"), str(self._preset.world_size)]
        else:
            argv = [python, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
            argv += ["--nproc-per-node", str(self._preset.world_size)]
        program = self._adapter.program(self._preset)
        if self._is_observed:
            program = observed.program(self._folder, program)
        return [*argv, *program, *self._adapter.arguments(self._preset, self._folder)]

    def _watch(self, child: ProcessGroup) -> None:
        self._report(child)
        self._beat(child)

    def _beat(self, child: ProcessGroup) -> None:
        """Say now and then that what was started is at work, or that it is not."""
        now_s = time.monotonic()
        if now_s - self._heartbeat_s < max(1.0, self._preset.measure.heartbeat_s):
            return
        self._heartbeat_s = now_s
        self._activity.look(child.family(), now_s)
        self._each(lambda _: Heartbeat(step=self._num_reported, ticks=self._activity.ticks))

    def _look_at_memory(self, family: list[psutil.Process]) -> None:
        """The resident set of each rank, as our own ranks tell it of a CPU at the end of a step."""
        found = [0] * len(self._resident)
        for process in family:
            with contextlib.suppress(psutil.Error, KeyError, ValueError, IndexError):
                rank = int(process.environ()["RANK"])  # what a rank starts inherits it, and is smaller
                found[rank] = max(found[rank], process.memory_info().rss)
        self._resident = [now or before for now, before in zip(found, self._resident, strict=True)]

    def _steps(self, ended: bool) -> list[StepReport]:
        """The steps so far, as the log tells them, or an observer inside the ranks."""
        if self._on_virtual_gpu:
            return observed.alone(observed.read(self._folder, len(self._ranks), ended))
        logged = self._adapter.steps(self._adapter.read_log(self._folder), self._preset)
        if not self._is_observed:
            return logged
        return observed.told_by(observed.read(self._folder, len(self._ranks), ended), logged)

    def _report(self, child: ProcessGroup, ended: bool = False) -> None:
        """Emit the steps that the log has gained."""
        steps = self._steps(ended)
        if len(steps) > self._num_reported and self._preset.hardware.device == "cpu":
            self._look_at_memory(child.family())
        for index in range(self._num_reported, min(len(steps), num_steps(self._preset))):
            self._report_step(index, steps[index])
        self._num_reported = max(self._num_reported, len(steps))

    def _report_step(self, index: int, step: StepReport) -> None:
        warmup = self._preset.measure.warmup
        phase: PhaseName = "warmup" if index < warmup else "measure"
        if index in (0, warmup):
            self._phase(phase)
        if index == warmup:
            for warning in other_work(self._preset, step, len(self._ranks)):
                self._emitters[0].emit(warning)
        shares = shared_out(round(step.tokens * (1 - self._padded)), len(self._ranks))
        self._each(
            lambda place: Step(
                step=index,
                phase=phase,
                tokens=shares[place],
                # The log gives one mean: it stands as the loss of one label a rank.
                labels=1,
                loss_sum=step.loss,
                micro_steps=self._preset.accumulation,
                step_s=step.step_s,
                mem_peak=self._memory(step, place),
                mem_alloc=self._memory(step, place),
                mem_reserved=int(step.reserved_by_rank_gib[place] * GIB) if step.reserved_by_rank_gib else 0,
            )
        )

    def _memory(self, step: StepReport, place: int) -> int:
        """Bytes of the rank at this place of those that run, at the end of a step."""
        if step.mem_by_rank_gib:
            return int(step.mem_by_rank_gib[place] * GIB)
        return int(step.mem_gib * GIB) or self._resident[place]

    def _end(self, code: int) -> int:
        log = self._adapter.read_log(self._folder)
        figures, own = self._adapter.claims(log, self._preset), self._adapter.own_tgs(log, self._preset)
        if self._is_observed:
            figures |= observed.figures(observed.read(self._folder, len(self._ranks), ended=True))
        if figures and not self._on_virtual_gpu:  # speeds that it tells of a device that computes nothing
            tgs, basis = own or (0.0, "")
            self._emitters[0].emit(Claimed(system=self._adapter.name, figures=figures, tgs=tgs, basis=basis))
        if self._stop.asked:
            self._each(lambda _: Bye(status="cancelled"))
            return 128 + signal.SIGINT
        done = self._num_reported >= num_steps(self._preset)
        if code == 0 and done:
            self._phase("teardown")
            self._each(lambda _: Bye())
            return 0
        return self._failed(code)

    def _failed(self, code: int) -> int:
        text = tail(self._log)
        if killed := exit_report.killed(text):
            killed.t = int(time.time())
            report = LauncherReport(exits=[killed], ended_unix=time.time())
            self._run.write("launcher.json", report)
        error = exit_report.describe(self._adapter.name, code, text)
        if error is None:
            return int(ExitCode.CRASHED)
        if code == 0:
            error.msg = self._ended_early(exit_report.first_cause(text))
        return self.fail(error)

    def _ended_early(self, cause: str) -> str:
        """Of a system that says it did well."""
        done, asked = self._num_reported, num_steps(self._preset)
        said = f"{self._adapter.name} ended with exit code 0 after {done} of {asked} steps"
        return f"{said}: {cause}" if cause else said

    def _say(self, note: str) -> None:
        self._phase("data", note)

    def _phase(self, name: PhaseName, note: str = "") -> None:
        self._each(lambda _: Phase(phase=name, note=note))

    def _each(self, make: Callable[[int], Event]) -> None:
        for place, emitter in enumerate(self._emitters):
            emitter.emit(make(place))


def load_adapter(preset: Preset) -> Adapter:
    """The adapter that an external engine's spec names; raises TgsError for an unknown engine."""
    launch = engine_of(preset.engine).launch
    assert isinstance(launch, External), preset.engine.name
    adapter: Adapter = load_entry(launch.adapter)
    return adapter


def other_work(preset: Preset, step: StepReport, num_ranks: int | None = None) -> list[Warn]:
    """What shows that a system did not train the step that was asked for; `num_ranks` (None: all) ran."""
    name, told = preset.engine.name, list[str]()
    asked = preset.tokens_per_step * (num_ranks or preset.world_size) // preset.world_size
    if preset.workload.packing == "carry" and abs(step.tokens / asked - 1) > _MISCOUNTED:
        told.append(f"{name} counts {step.tokens:,.0f} tokens a step where {asked:,} were asked for")
    if preset.parallel.sp > 1 and step.num_all_to_alls == 0:
        told.append(f"{name} did no all-to-all in a step, where sequence parallelism over sp ranks was asked")
    hint = "its figure is of another workload"
    return [Warn(code="other_step", msg=msg, hint=hint) for msg in told]


def shared_out(total: int, world_size: int) -> list[int]:
    """`total` in whole parts that differ by one at most."""
    part, rest = divmod(total, world_size)
    return [part + (rank < rest) for rank in range(world_size)]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tgsbench.external")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    return parser.parse_args(argv)
