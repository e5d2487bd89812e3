"""Makes the trials that a tuner asks for: stored runs, a journal, a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from tgsbench import units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight, sweep
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result
from tgsbench.tune.candidates import Space, TunedSetting
from tgsbench.tune.halving import Rung, Status, Trial, TrialOutcome, Tuner
from tgsbench.tune.journal import Journal

Say = Callable[[str], None]
Run = Callable[[Preset, Path, str, str, Say], Result]

_STEPS: dict[Rung, tuple[int, int]] = {"short": (1, 3), "long": (2, 8)}
"""Steps of warm-up and measured ones."""
_UNFINISHED = ("running", "cancelled", "preempted")


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's signal, during a trial: the best so far counts."""


def runnable(space: Space) -> Space:
    """Candidates that this machine can start; why the others cannot is counted."""
    machine, kept, dropped = preflight.this_machine(), [], Counter(space.dropped)
    for candidate in space.candidates:
        try:
            preflight.check(candidate.preset, machine, candidate.preset.world_size)
            kept.append(candidate)
        except TgsError as error:
            dropped[f"cannot start here: {error.msg.splitlines()[0]}"] += 1
    return replace(space, candidates=kept, dropped=dict(dropped))


def make_trials(
    tuner: Tuner,
    journal: Journal,
    root: Path,
    name: str,
    budget_s: float,
    say: Say,
    run: Run = sweep.run_named,
) -> str:
    """Ask and measure until enough is known or the budget is spent; returns why it ended.

    Raises Interrupted when a run was ended from outside, TgsError when runs or journal cannot be written.
    """
    by_key = {candidate.key: candidate for candidate in tuner.candidates}
    while True:
        spent_s = sum(outcome.seconds for outcome in tuner.outcomes)
        trial = tuner.ask(spent_s / budget_s)
        if trial is None:
            return "nothing else is likely to be faster" if tuner.best else "every setting failed"
        if spent_s and spent_s + _expected_s(trial, tuner.outcomes) > budget_s:
            return f"another trial does not fit into the budget of {units.duration(budget_s)}"
        left = f"{units.duration(max(0.0, budget_s - spent_s))} left"
        say(f"{len(tuner.outcomes) + 1}  {trial.rung:<5}  {trial.key}  ({left})")
        outcome = _made(trial, by_key[trial.key], root, name, say, run)
        journal.add(outcome)
        tuner.tell(outcome)
        say(f"      {_told(outcome)}")


def _expected_s(trial: Trial, outcomes: Sequence[TrialOutcome]) -> float:
    """What such a trial took so far; a first long one takes at least what a short one does."""
    alike = [o.seconds for o in outcomes if o.rung == trial.rung] or [o.seconds for o in outcomes]
    return sum(alike) / len(alike)


def _made(trial: Trial, candidate: TunedSetting, root: Path, name: str, say: Say, run: Run) -> TrialOutcome:
    warmup, steps = _STEPS[trial.rung]
    measure = replace(candidate.preset.measure, warmup=warmup, steps=steps)
    preset = replace(candidate.preset, measure=measure)
    group = f"tune-{name}-{trial.rung}{trial.repeat + 1}"
    result, run_name = sweep.stored(root, group, sweep.digest_of(preset))
    begin_s = time.monotonic()
    if result is None:
        result = run(preset, root, run_name, f"tune:{name}", lambda text: say(f"      {text}"))
        seconds = time.monotonic() - begin_s
    else:  # a tune that was killed before it wrote its journal
        seconds = sum(result.step_s.samples)
    if result.status in _UNFINISHED:
        raise Interrupted
    return _outcome(trial, result, seconds)


def _outcome(trial: Trial, result: Result, seconds: float) -> TrialOutcome:
    tgs = result.tgs
    spread = (max(tgs.samples) - min(tgs.samples)) / 2 / tgs.median if tgs.samples and tgs.median else 0.0
    status: Status = "oom" if result.status == "oom" else "failed"
    if result.status == "ok" and tgs.median:
        status = "disturbed" if result.disturbances else "ok"
    return TrialOutcome(
        key=trial.key,
        rung=trial.rung,
        repeat=trial.repeat,
        status=status,
        tgs=tgs.median,
        spread=spread,
        seconds=seconds,
        mem_gib=result.mem.peak_gib,
        run_id=result.run_id,
        reason=result.failure.reason if result.failure else "" if result.status == "ok" else result.status,
    )


def _told(outcome: TrialOutcome) -> str:
    if outcome.status in ("ok", "disturbed") and outcome.tgs:
        mark = "" if outcome.status == "ok" else ", disturbed"
        return f"TGS {units.rate(outcome.tgs)}{mark}"
    return f"{outcome.status}: {outcome.reason}"
