"""Runs presets until each is known to be as fast as its baseline, or slower, or nothing can be said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tgsbench import units
from tgsbench.errors import ExitCode
from tgsbench.launch import local
from tgsbench.launch.interleaved import Say, run_once, why_not_ok
from tgsbench.metrics import gate
from tgsbench.metrics.gate import LEAST_RUNS, Wish
from tgsbench.metrics.spread import drift
from tgsbench.results import compare
from tgsbench.results.gated import Gated
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result

Run = Callable[[Preset, Path, str, Say], Result]

_MOST_DISTURBED = 3
"""Disturbed runs of a preset that are made again; a machine that is never quiet is not waited for."""


def run_all(
    found: Sequence[Gated], root: Path, wish: Wish, budget_s: float, say: Say, run: Run = run_once
) -> None:
    """Run the presets in turns until all are decided or the budget is spent; fills each one's findings.

    No run starts that the longest so far would carry over the budget. `run` is a test's.
    """
    begin_s, longest_s = time.monotonic(), 0.0
    tag = f"gate:{int(time.time())}"
    while waiting := [each for each in found if not each.is_over]:
        for each in waiting:
            spent_s = time.monotonic() - begin_s
            if spent_s + longest_s > budget_s:
                _out_of_budget(waiting, wish, budget_s)
                return
            say(f"{each.preset.name}: run {len(each.results) + 1}, {spent_s:.0f} s of {budget_s:.0f} s spent")
            each.results.append(run(each.preset, root, tag, say))
            took_s = time.monotonic() - begin_s - spent_s
            each.took_s, longest_s = each.took_s + took_s, max(longest_s, took_s)
            _judge(each, wish)


def _judge(each: Gated, wish: Wish) -> None:
    """Is another run needed? If not, what do they say?"""
    newest = each.results[-1]
    if newest.status != "ok" or not newest.tgs.median:
        _end(each, why_not_ok(newest), local.exit_code(newest))
    elif each.baseline is None:
        each.is_over = len(each.quiet) >= wish.most_runs or _never_quiet(each)
    elif reasons := compare.compare(each.row, each.baseline).reasons:
        _end(each, f"not comparable: {'; '.join(reasons)}", ExitCode.NOT_COMPARABLE)
    elif not _never_quiet(each) and len(each.quiet) >= LEAST_RUNS:
        needed = gate.runs_needed(each.baseline.samples, each.quiet, wish)
        if needed is None or len(each.quiet) >= min(needed, wish.most_runs):
            _decide(each, wish, f"{units.counted(len(each.quiet), 'run')} spread too much")


def _never_quiet(each: Gated) -> bool:
    if each.num_disturbed <= _MOST_DISTURBED:
        return False
    what = units.counted(each.num_disturbed, "run")
    newest = next(result for result in reversed(each.results) if result.disturbances)
    _end(each, f"{what} of a disturbed machine: {newest.disturbances[-1]}", ExitCode.DISTURBED)
    return True


def _out_of_budget(waiting: Sequence[Gated], wish: Wish, budget_s: float) -> None:
    for each in waiting:
        spent = f"the budget of {budget_s:.0f} s is spent"
        if each.baseline is None or len(each.quiet) < LEAST_RUNS:
            _end(each, f"{spent} after {units.counted(len(each.quiet), 'quiet run')}", ExitCode.DISTURBED)
        else:
            _decide(each, wish, spent)


def _decide(each: Gated, wish: Wish, why_undecided: str) -> None:
    """Let the runs speak; a drift among them is a machine that changes, which decides nothing."""
    assert each.baseline is not None
    decision = gate.decide(each.baseline.samples, each.quiet, wish)
    drifts = drift([1 / tgs for tgs in each.quiet], "run")
    if drifts or decision.finding == "undecided":
        decision = msgspec.structs.replace(decision, finding="undecided")
        each.why = drifts or why_undecided
    codes = {"pass": ExitCode.OK, "slower": ExitCode.WORSE, "undecided": ExitCode.DISTURBED}
    each.decision, each.exit_code, each.is_over = decision, codes[decision.finding], True


def _end(each: Gated, why: str, exit_code: int) -> None:
    each.why, each.exit_code, each.is_over = why, int(exit_code), True
