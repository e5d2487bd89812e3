"""Runs that repeat one measurement in fresh processes: one row, whose interval is the spread between them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.metrics import ratio
from tgsbench.metrics.spread import oddities
from tgsbench.results import results, rows
from tgsbench.results.rows import Row
from tgsbench.schema.run import Result
from tgsbench.store.run_dir import RunDir, Store

LEAST_QUIET = 3
"""Runs of a quiet machine that are enough to leave the disturbed ones of a group out."""


class RepeatedRuns(Struct, frozen=True, kw_only=True):
    """The runs of a group, and the one row that stands for them where rows are compared."""

    group: str
    row: Row
    runs: list[Result]


def members(store: Store, group: str) -> list[RunDir]:
    """The runs of a group in the order in which they were made; empty when there is none of this name."""
    names = sorted(store.numbered.get(group, ()), key=lambda name: int(name.rpartition("-")[2]))
    runs = [RunDir(store.root / name) for name in names]
    return [run for run in runs if _group_of(run) == group]


def group_of(run: RunDir) -> str:
    """The group that a run belongs to; empty for one that stands alone."""
    return run.manifest().repeat_of


def _group_of(run: RunDir) -> str:
    try:
        return group_of(run)
    except TgsError:  # a damaged run belongs to nothing
        return ""


def group_row(store: Store, group: str) -> Row:
    """The row of a group of runs. Raises TgsError when there is none of this name."""
    found = [results.load_result(run) for run in members(store, group)]
    if not found:
        raise TgsError(f"no group of runs called {group!r} in {store.root}", exit_code=ExitCode.STORE)
    return row_of(group, found)


def summed_up(group: str, found: Sequence[Result]) -> RepeatedRuns:
    """The runs of a group with their row."""
    return RepeatedRuns(group=group, row=row_of(group, found), runs=list(found))


def row_of(group: str, found: Sequence[Result]) -> Row:
    """Mean TGS of the runs with the interval of the spread between them; runs that failed have no part in it.

    Runs of a disturbed machine are left out where enough others remain; else the row is a disturbed one.
    """
    good = [result for result in found if result.status == "ok" and result.tgs.median]
    if not good:
        return rows.from_result(found[-1], label=group)
    quiet = [result for result in good if not result.disturbances]
    used = quiet if len(quiet) >= LEAST_QUIET else good
    figures = [result.tgs.median for result in used if result.tgs.median]
    mean, ci95 = ratio.mean_of_runs(figures)
    row = rows.from_result(used[-1], label=group)
    return msgspec.structs.replace(
        row,
        tgs=mean,
        ci95=ci95,
        samples=figures,
        repeats=len(figures),
        tflops=scaled(used[-1], mean),
        mfu=row.mfu * mean / figures[-1] if row.mfu is not None else None,
        mfu_bf16=row.mfu_bf16 * mean / figures[-1] if row.mfu_bf16 is not None else None,
        mem_peak_gib=max((r.mem.peak_gib for r in used if r.mem.peak_gib), default=None),
        disturbances=[f"{r.run_id}: {r.disturbances[-1]}" for r in used if r.disturbances],
        remarks=_remarks(found, good, used),
    )


def scaled(result: Result, tgs: float) -> dict[str, float]:
    """TFLOPs follow TGS: those of one run, carried to the TGS of several."""
    own = result.tgs.median
    return {name: value * tgs / own for name, value in result.tflops.items()} if own else {}


def _remarks(found: Sequence[Result], good: Sequence[Result], used: Sequence[Result]) -> list[str]:
    """What was left out, and what is odd about the rest."""
    failed, disturbed = len(found) - len(good), len(good) - len(used)
    left_out = [f"{units.counted(failed, 'run')} of {len(found)} failed"] if failed else []
    left_out += [f"{units.counted(disturbed, 'run')} of a disturbed machine left out"] if disturbed else []
    return left_out + oddities([1 / r.tgs.median for r in used if r.tgs.median], "run")
