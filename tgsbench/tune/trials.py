"""Makes the trials that a tuner asks for: stored runs, a journal, a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec.structs import replace

from tgsbench import units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight, sweep
from tgsbench.launch.preflight import LocalMachine
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result
from tgsbench.systems import support
from tgsbench.tune.candidates import Space
from tgsbench.tune.halving import RUNS, Rung, Status, Trial, TrialOutcome
from tgsbench.tune.journal import Journal
from tgsbench.virtual_gpu import installation, settings

Say = Callable[[str], None]
Watch = Callable[[Trial], None]
"""Hears of a trial before it is made."""
Run = Callable[..., Result]
"""Does one run: takes what `sweep.run_named` does."""

Stage = Literal["virtual", "emulated", "runs"]
STAGES: dict[Stage, tuple[Rung, ...]] = {"virtual": ("virtual",), "emulated": ("emulated",), "runs": RUNS}
"""What can be asked for, in the order in which a setting climbs it."""
_ALONE: tuple[Stage, ...] = ("runs", "emulated", "virtual")
"""What is done where nobody asks: the surest of these that this machine can."""

_STEPS: dict[Rung, tuple[int, int]] = {
    "length": (1, 1),
    "virtual": (1, 2),
    "emulated": (1, 3),
    "short": (1, 3),
    "long": (2, 8),
}
"""Steps of warm-up and measured ones."""
_UNFINISHED = ("running", "cancelled", "preempted")
_GOOD = ("ok", "emulated", "virtual")


class Asks(Protocol):
    """What asks for trials and is told how they ended: a Tuner, or the search for the longest sequence."""

    outcomes: list[TrialOutcome]

    @property
    def conclusion(self) -> str:
        """What it means that nothing more is asked."""

    def ask(self, spent_share: float, /) -> Trial | None:
        """The next trial when this share of the budget is spent; None when enough is known."""

    def tell(self, outcome: TrialOutcome) -> None:
        """Take the end of a trial."""

    def preset_of(self, trial: Trial) -> Preset:
        """What a trial is of."""

    def expected_s(self, trial: Trial) -> float:
        """Seconds that it will take; 0 before anything is known."""


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's signal, during a trial: the best so far counts."""


def startable(space: Space, wanted: Collection[Stage] = ()) -> tuple[Space, tuple[Rung, ...]]:
    """Candidates that this machine can try, and the rungs; why it cannot try the others is counted.

    Nothing `wanted`: real runs, else a rank emulated, else a rank on a virtual GPU. No rungs where there is
    nothing that can be tried; the space then says why there are no runs.
    """
    here = preflight.this_machine()
    choices = [[stage for stage in STAGES if stage in wanted]] if wanted else [[stage] for stage in _ALONE]
    first: Space | None = None
    for stages in choices:
        found = _startable(space, stages, here)
        if found.candidates:
            return found, tuple(rung for stage in stages for rung in STAGES[stage])
        first = first or found
    return first or space, ()


def can_run(preset: Preset, wanted: Collection[Stage] = ()) -> bool:
    """Are real runs wanted, and can all ranks be started here?"""
    try:
        _check("runs", preset, preflight.this_machine())
    except TgsError:
        return False
    return not wanted or "runs" in wanted


def why_none(space: Space, here: Space) -> str:
    """Why most candidates of a space cannot be tried here, where none can."""
    why = {reason: count for reason, count in here.dropped.items() if reason not in space.dropped}
    return max(why, key=why.__getitem__, default="no way fits")


def _startable(space: Space, stages: Sequence[Stage], here: LocalMachine) -> Space:
    kept, dropped = [], Counter(space.dropped)
    missing = installation.look().missing if "virtual" in stages else []
    if missing:
        dropped[f"no virtual GPU here: {missing[0]}"] += len(space.candidates)
    for candidate in space.candidates if not missing else ():
        try:
            for stage in stages:
                _check(stage, candidate.preset, here)
            kept.append(candidate)
        except TgsError as error:
            dropped[f"cannot start here: {error.msg.splitlines()[0]}"] += 1
    return replace(space, candidates=kept, dropped=dict(dropped))


def _check(stage: Stage, preset: Preset, here: LocalMachine) -> None:
    """Raise TgsError when this machine cannot try a preset in this way."""
    if stage == "virtual":
        support.check(preset)
        settings.virtual_gpu(preset, settings.find_virtual_gpu(preset.hardware.gpu), "0")
    elif stage == "emulated":
        preflight.check_emulation(preset, on_several=False)
        preflight.check(preset, here, 1, emulated=True)
    else:
        preflight.check(preset, here, preset.world_size)


def make_trials(
    tuner: Asks,
    journal: Journal,
    root: Path,
    name: str,
    budget_s: float,
    say: Say,
    run: Run = sweep.run_named,
    watch: Watch = lambda _: None,
    before: Sequence[TrialOutcome] = (),
) -> str:
    """Ask and measure until enough is known or the budget is spent; returns why it ended.

    `before`: trials that came out of the same budget.
    Raises Interrupted when a run was ended from outside, TgsError when runs or journal cannot be written.
    """
    before_s = sum(outcome.seconds for outcome in before)
    whole_s = max(budget_s - before_s, 1e-9)
    while True:
        spent_s = sum(outcome.seconds for outcome in tuner.outcomes)
        trial = tuner.ask(spent_s / whole_s)
        if trial is None:
            return tuner.conclusion
        if before_s + spent_s and spent_s + tuner.expected_s(trial) > whole_s:
            return f"another trial does not fit into the budget of {units.duration(budget_s)}"
        left = f"{units.duration(max(0.0, whole_s - spent_s))} left"
        say(f"{len(before) + len(tuner.outcomes) + 1}  {trial.rung:<6} {trial.key}  ({left})")
        watch(trial)
        outcome = _made(trial, tuner.preset_of(trial), root, name, say, run)
        journal.add(outcome)
        tuner.tell(outcome)
        say(f"      {_told(outcome)}")


def _made(trial: Trial, whole: Preset, root: Path, name: str, say: Say, run: Run) -> TrialOutcome:
    preset = _shortened(whole, trial.rung)
    group = f"tune-{name}-{trial.rung}{trial.repeat + 1}"
    result, run_name = sweep.stored(root, group, sweep.digest_of(preset))
    begin_s = time.monotonic()
    if result is None:
        result = run(
            preset, root, run_name, f"tune:{name}", lambda text: say(f"      {text}"), **_how(trial, preset)
        )
        seconds = time.monotonic() - begin_s
    else:  # a tune that was killed before it wrote its journal
        seconds = sum(result.step_s.samples)
    if result.status in _UNFINISHED:
        raise Interrupted
    return _outcome(trial, result, seconds)


def _shortened(preset: Preset, rung: Rung) -> Preset:
    """With as few steps as this rung takes; on a virtual GPU all micro-steps beyond the second are alike."""
    warmup, steps = _STEPS[rung]
    shorter = replace(preset, measure=replace(preset.measure, warmup=warmup, steps=steps))
    if rung != "virtual" or preset.accumulation <= 2:
        return shorter
    return replace(shorter, training=replace(preset.training, accumulation=2))


def _how(trial: Trial, preset: Preset) -> dict[str, Any]:
    """What `sweep.run_named` is told beside the preset."""
    if trial.rung == "virtual":
        return {"virtual": settings.virtual_gpu(preset, settings.find_virtual_gpu(preset.hardware.gpu), "0")}
    return {"emulated": True} if trial.rung == "emulated" else {}


def _outcome(trial: Trial, result: Result, seconds: float) -> TrialOutcome:
    status: Status = "oom" if result.status == "oom" else "failed"
    tgs, spread, mem_gib = _figures(result)
    if result.status in _GOOD and (tgs or trial.rung == "virtual"):
        status = "disturbed" if result.disturbances and trial.rung != "virtual" else "ok"
    return TrialOutcome(
        key=trial.key,
        rung=trial.rung,
        repeat=trial.repeat,
        status=status,
        tgs=tgs,
        spread=spread,
        seconds=seconds,
        mem_gib=mem_gib,
        host_s=result.virtual.host_s if result.virtual else None,
        run_id=result.run_id,
        reason=_reason(result, status),
    )


def _reason(result: Result, status: Status) -> str:
    """Why a trial is no good; empty for one that is, unless its run says something."""
    if result.failure:
        return result.failure.reason
    return "" if status in ("ok", "disturbed") else result.status


def _figures(result: Result) -> tuple[float | None, float, float | None]:
    """TGS, half the width of its interval as a share of it, and memory: measured, or projected."""
    if (alone := result.emulated) is not None:
        return alone.tgs, (alone.tgs_high - alone.tgs_low) / 2 / alone.tgs, alone.mem_projected_gib
    tgs = result.tgs
    spread = (max(tgs.samples) - min(tgs.samples)) / 2 / tgs.median if tgs.samples and tgs.median else 0.0
    return tgs.median, spread, result.mem.peak_gib


def _told(outcome: TrialOutcome) -> str:
    if outcome.status in ("ok", "disturbed"):
        memory = f"holds, {outcome.mem_gib:.1f} GiB" if outcome.mem_gib else "holds"
        mark = ", disturbed" if outcome.status == "disturbed" else ""
        return (f"TGS {units.rate(outcome.tgs)}" if outcome.tgs else memory) + mark
    return f"{outcome.status}: {outcome.reason}"
