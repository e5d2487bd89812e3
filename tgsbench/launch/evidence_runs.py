"""Starts the short runs of `tgsbench verify`, follows them, and reads what their ranks saw."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.tail import RunTail
from tgsbench.launch.command import rank_environment
from tgsbench.launch.watch import StopSignals
from tgsbench.metrics.failure import root_cause
from tgsbench.metrics.observe import RunTotals, fold_events
from tgsbench.schema.events import Event, Gpu, Heartbeat, Phase
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Outcome
from tgsbench.schema.verify import EVIDENCE, GRADIENTS, UPDATES, Evidence, Purpose, evidence_of
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.system.awake import AwakeClock
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.process import ProcessGroup

_SILENT_S = 180.0
"""Imports and the first step of a busy machine take 60 s without an event; a step takes 0.1 s."""
_POLL_S = 0.1
_LONGEST_LOOK_S = 2.0

Say = Callable[[str], None]


class WantedRun(NamedTuple):
    """One run that is wanted, and what for."""

    preset: Preset
    purpose: Purpose
    follows: str = ""
    """The oracle only: an earlier run of the same process whose experts it takes where scores tie."""

    @property
    def world_size(self) -> int:
        """Processes that it takes: the oracle needs one, whatever the mesh."""
        return 1 if self.purpose == "oracle" else self.preset.world_size


Runs = Mapping[str, WantedRun]
"""Runs of one process, by name, in order: they share its imports and are forks of it."""


class EvidenceRun(Struct, kw_only=True):
    """What one run left behind."""

    ranks: list[Evidence] = []
    gradients: Path = Path()
    updates: Path = Path()
    problem: str = ""
    """Why it did not come to its end; empty when it did."""
    versions: dict[str, str] = {}


def gather(folder: Path, side_by_side: Sequence[Runs], stop: StopSignals, say: Say) -> dict[str, EvidenceRun]:
    """Run every group of runs in a process of its own, all at once; what each run's ranks saw, by name.

    Raises TgsError when interrupted, or when a rank refuses to start, as for a missing compiler.
    """
    made, outcome = run_side_by_side(folder, side_by_side, stop, say)
    seen = {name: _read(run, outcome) for name, run in made.items()}
    for runs in side_by_side:
        _blame_the_first(list(runs), made, seen)
    return seen


def _blame_the_first(
    names: Sequence[str], made: Mapping[str, RunDir], seen: Mapping[str, EvidenceRun]
) -> None:
    """Say of runs that never began which one before them failed in the process that would have run them."""
    failed = ""
    for name in names:
        if failed and made[name].launcher_report() is None:
            seen[name].problem = f"not started, since {failed} before it failed"
        elif seen[name].problem:
            failed = failed or name


def run_side_by_side(
    folder: Path, side_by_side: Sequence[Runs], stop: StopSignals, say: Say
) -> tuple[dict[str, RunDir], Outcome]:
    """Run every group of runs in a process of its own; their folders by name, and how they ended together.

    Raises TgsError when interrupted.
    """
    made = {name: _make(folder, name, run) for runs in side_by_side for name, run in runs.items()}
    _leave_if_told(stop)
    children = [_start(folder, [made[name] for name in runs], runs) for runs in side_by_side]
    try:
        outcome = _follow(children, _Narrator(made, say), stop)
    finally:
        for child in children:
            if child.poll() is None:
                child.stop()
    _leave_if_told(stop)
    return made, outcome


def _make(folder: Path, name: str, wanted: WantedRun) -> RunDir:
    preset = wanted.preset
    run = run_dir.create(folder, preset, name)
    (run.path / EVIDENCE).mkdir()
    run.write(
        "run.json",
        Manifest(
            run_id=run.run_id,
            preset=preset.rehearsal_of,
            engine=preset.engine.name,
            created_unix=time.time(),
            world_size=wanted.world_size,
            device=preset.hardware.device,
            rehearsal_of=preset.rehearsal_of,
            for_verification=wanted.purpose,
            follows=wanted.follows,
        ),
    )
    return run


def _start(folder: Path, made: Sequence[RunDir], runs: Runs) -> ProcessGroup:
    preset = next(iter(runs.values())).preset
    # One thread a rank: many ranks share few cores, and sums of several threads differ in their last bits.
    env = rank_environment(preset, child_environment(), num_cores=1, nproc=1)
    argv = module_argv("tgsbench.training.verify_worker", *(str(run.path.resolve()) for run in made))
    log = made[0].log_dir / "launcher.log"
    return ProcessGroup([*argv, "--parent-pid", str(os.getpid())], env, log)


class _Narrator:
    """Says what the first rank of each run is doing."""

    def __init__(self, made: Mapping[str, RunDir], say: Say) -> None:
        self._tails = {name: RunTail(run.events_dir) for name, run in made.items()}
        self._say = say
        self._ticks: dict[tuple[str, int], int] = {}

    def hear(self) -> bool:
        """Pass new notes on; did any rank get further?"""
        further = [self._tell(name, tail.poll()) for name, tail in self._tails.items()]
        return any(further)

    def _tell(self, name: str, events: list[Event]) -> bool:
        for event in events:
            if isinstance(event, Phase) and event.rank == 0 and event.note:
                self._say(f"  {name}: {event.note}")
        progress = [self._is_progress(name, event) for event in events]
        return any(progress)

    def _is_progress(self, name: str, event: Event) -> bool:
        if isinstance(event, Heartbeat):
            before = self._ticks.get((name, event.rank), 0)
            self._ticks[name, event.rank] = event.ticks
            return event.ticks > before
        return not isinstance(event, Gpu)


def _follow(children: Sequence[ProcessGroup], narrator: _Narrator, stop: StopSignals) -> Outcome:
    """Until all have ended, one asks to stop, or no rank of any has got further for long."""
    clock = AwakeClock(_LONGEST_LOOK_S)
    last_s = clock.read()
    while any(child.poll() is None for child in children) and stop.caught is None:
        now_s = clock.read()
        if narrator.hear():
            last_s = now_s
        if now_s - last_s > _SILENT_S:
            return Outcome(status="stalled", reason=f"no rank got further for {_SILENT_S:.0f} s")
        time.sleep(_POLL_S)
    narrator.hear()
    return Outcome(exit_code=max((abs(child.poll() or 0) for child in children), default=0))


def _leave_if_told(stop: StopSignals) -> None:
    if stop.caught is not None:
        code = ExitCode.PREEMPTED if stop.caught == signal.SIGTERM else ExitCode.CANCELLED
        raise TgsError(f"interrupted by {stop.caught.name}; nothing is proved", exit_code=code)


def _read(run: RunDir, outcome: Outcome) -> EvidenceRun:
    world_size = run.manifest().world_size
    observed = fold_events(run.events(), world_size)
    problem = _problem(run, outcome, observed, world_size)
    hello = observed.hellos.get(0)
    versions = dict(hello.versions) if hello else {}
    if problem:
        return EvidenceRun(problem=problem, versions=versions)
    paths = [run.path / evidence_of(rank) for rank in range(world_size)]
    ranks = [msgspec.json.decode(path.read_bytes(), type=Evidence) for path in paths]
    return EvidenceRun(
        ranks=ranks, gradients=run.path / GRADIENTS, updates=run.path / UPDATES, versions=versions
    )


def _problem(run: RunDir, outcome: Outcome, observed: RunTotals, world_size: int) -> str:
    """Why a run did not end well, in one line."""
    refusal = next((error for error in observed.errors if error.kind == "refused"), None)
    if refusal is not None:
        raise TgsError(refusal.msg, hint=refusal.hint, exit_code=ExitCode(refusal.exit_code))
    failure = root_cause(observed, outcome, run.launcher_report(), world_size, run.stack_texts())
    if failure is None:
        return ""
    rank = f"rank {failure.rank}: " if failure.rank is not None else ""
    return f"{failure.kind}: {rank}{failure.reason}"
