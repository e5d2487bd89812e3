"""A tune from its journal to its verdict: goes on where it was, keeps its state for whoever looks on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import sweep
from tgsbench.tune.candidates import Space
from tgsbench.tune.halving import Rung, Trial, TrialOutcome, Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.longest import LengthSearch, PlannedLength, at_length, split
from tgsbench.tune.state import StateFile
from tgsbench.tune.trials import Interrupted, Run, Say, make_trials
from tgsbench.tune.verdict import Verdict, verdict_of

Plan = Callable[[Asked], tuple[Space, tuple[Rung, ...]]]
"""What can be tried here of a question, and the rungs."""
_NO_SPACE = Space(candidates=[], dropped={}, num_planned=0)


class Campaign(Struct, frozen=True, kw_only=True):
    """Where the trials of a tune go, what they may cost, who hears of them."""

    root: Path
    name: str
    budget_s: float
    say: Say
    run: Run = sweep.run_named

    @property
    def journal(self) -> Journal:
        """Its lines of outcomes."""
        return Journal(self.root, self.name)


class Ending(Struct, frozen=True, kw_only=True):
    """How a tune ended."""

    asked: Asked
    """The question at the length that was tuned."""
    verdict: Verdict
    is_interrupted: bool = False


def measure(made: Campaign, space: Space, rungs: tuple[Rung, ...], asked: Asked) -> Ending:
    """Make the trials that the budget allows.

    What the journal of this name holds is not made again. Raises TgsError when another process makes this
    tune, when its journal is another question's, and when runs or journal cannot be written.
    """
    with made.journal.alone():
        known = _known(made, asked)
        return _settings(made, space, Tuner(candidates=space.candidates, stages=rungs), asked, known)


def measure_longest(made: Campaign, planned: PlannedLength, plan: Plan, asked: Asked) -> Ending:
    """Find the longest sequence that trains, then the fastest setting there, in one budget; see `measure`.

    Raises TgsError besides when no length trains.
    """
    with made.journal.alone():
        of_length, of_settings = split(_known(made, asked))
        search = planned.search(made.budget_s, of_length)
        if not of_settings and (ended := _lengths(made, search, asked)):
            return _cut_short(search, asked, ended)
        if (length := search.seen.seq_len) is None:
            raise TgsError(f"no length trains: {search.conclusion}", exit_code=ExitCode.DOES_NOT_FIT)
        found = at_length(asked, length)
        made.say(f"longest sequence: {units.length(length)}; {search.conclusion}")
        space, rungs = plan(found)
        space = replace(space, longest=search.seen)
        tuner = Tuner(candidates=space.candidates, stages=rungs, before=search.outcomes)
        return _settings(made, space, tuner, found, of_settings)


def _known(made: Campaign, asked: Asked) -> list[TrialOutcome]:
    outcomes = made.journal.open(asked)
    if outcomes:
        made.say(f"goes on after {units.counted(len(outcomes), 'trial')} of {made.journal.path}")
    return outcomes


def _settings(
    made: Campaign, space: Space, tuner: Tuner, asked: Asked, known: Sequence[TrialOutcome]
) -> Ending:
    keys, interrupted = {candidate.key for candidate in tuner.candidates}, False
    for outcome in known:
        if outcome.key in keys:
            tuner.tell(outcome)
    state = StateFile(made.root, made.name, asked, made.budget_s, space)
    try:
        ended = make_trials(
            tuner, made.journal, made.root, made.name, made.budget_s, made.say, made.run,
            watch=lambda trial: state.write(tuner, trial), before=tuner.before,
        )  # fmt: skip
    except (Interrupted, KeyboardInterrupt):
        ended, interrupted = _interrupted(made), True
    state.write(tuner, None, ended)
    return Ending(asked=asked, verdict=verdict_of(space, tuner, ended), is_interrupted=interrupted)


def _lengths(made: Campaign, search: LengthSearch, asked: Asked) -> str:
    """Run lengths; how it was interrupted, empty where it was not."""

    def tell(trial: Trial | None, ended: str = "") -> None:
        space = replace(_NO_SPACE, longest=search.seen)
        state = StateFile(made.root, made.name, asked, made.budget_s, space)
        state.write(Tuner(candidates=[], before=search.outcomes), trial, ended)

    try:
        why = make_trials(
            search, made.journal, made.root, made.name, made.budget_s, made.say, made.run, watch=tell
        )
    except (Interrupted, KeyboardInterrupt):
        tell(None, ended := _interrupted(made))
        return ended
    if search.seen.seq_len is None:
        tell(None, f"no length trains: {why}")
    return ""


def _cut_short(search: LengthSearch, asked: Asked, ended: str) -> Ending:
    """The longest so far, as what is asked for."""
    seen = search.seen
    tuner = Tuner(candidates=[], before=search.outcomes)
    verdict = verdict_of(replace(_NO_SPACE, longest=seen), tuner, ended)
    found = at_length(asked, seen.seq_len) if seen.seq_len else asked
    return Ending(asked=found, verdict=verdict, is_interrupted=True)


def _interrupted(made: Campaign) -> str:
    return f"interrupted; the same command goes on ({made.journal.path})"
