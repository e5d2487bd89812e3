"""A tune from its journal to its verdict: goes on where it was, keeps its state for whoever looks on."""

from __future__ import annotations

from pathlib import Path

from tgsbench import units
from tgsbench.launch import sweep
from tgsbench.tune.candidates import Space
from tgsbench.tune.halving import Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.state import StateFile
from tgsbench.tune.trials import Interrupted, Run, Say, make_trials
from tgsbench.tune.verdict import Verdict, verdict_of


def measure(
    space: Space,
    tuner: Tuner,
    asked: Asked,
    root: Path,
    name: str,
    budget_s: float,
    say: Say,
    run: Run = sweep.run_named,
) -> tuple[Verdict, bool]:
    """Make the trials that the budget allows; the verdict, and whether somebody interrupted them.

    What the journal of this name holds is not made again. Raises TgsError when another process makes this
    tune, when its journal is another question's, and when runs or journal cannot be written.
    """
    journal, interrupted = Journal(root, name), False
    with journal.alone():
        known = {candidate.key for candidate in tuner.candidates}
        for outcome in journal.open(asked):
            if outcome.key in known:
                tuner.tell(outcome)
        if tuner.outcomes:
            say(f"goes on after {units.counted(len(tuner.outcomes), 'trial')} of {journal.path}")
        state = StateFile(root, name, asked, budget_s, space)
        try:
            watch = lambda trial: state.write(tuner, trial)  # noqa: E731
            ended = make_trials(tuner, journal, root, name, budget_s, say, run, watch)
        except (Interrupted, KeyboardInterrupt):
            ended, interrupted = f"interrupted; the same command goes on ({journal.path})", True
        state.write(tuner, None, ended)
    return verdict_of(space, tuner, ended), interrupted
