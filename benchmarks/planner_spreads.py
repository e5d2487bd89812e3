"""80 % intervals of planned TGS by what is known, from published sources that were left out of the fit.

An interval is made of a part for stack and GPU, found here, and of parts for the network and for tight memory
that the planner works out for each plan (tgsbench/planner/interval.py). What those two explain of a row's
error is taken off before the quantiles are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from benchmarks import planner_fit
from benchmarks.planner_kernels import Kernels
from benchmarks.planner_rows import Row
from tgsbench.schema.hardware import Known, Spread

OUTSIDE = 0.1
"""Of the rows, below an 80 % interval, and as many above it."""


FEW_ROWS = 4
"""Rows that make a source count as much as any: one row alone must not be the tenth outside."""
FOLDS = 4
"""Parts of the rows that are left out in turn to see how a known stack's other rows come out."""


class Missed(Struct, frozen=True):
    """One row: how far it lies beyond what network and memory explain, in logarithms, and what it counts."""

    below: float
    above: float
    weight: float


def spreads_of(rows: Sequence[Row], kernels: Kernels) -> dict[Known, Spread]:
    """The interval for each state of knowledge; never narrower where less is known."""
    fold = {id(row): index % FOLDS for index, row in enumerate(rows)}
    by_row = planner_fit.left_out(rows, kernels, lambda row: fold[id(row)])
    by_gpu = planner_fit.left_out(rows, kernels, lambda row: (row.source, planner_fit.family(row.gpu)))
    by_source = planner_fit.left_out(rows, kernels, lambda row: row.source)
    neither = planner_fit.left_out_with_gpu(rows, kernels)
    parts = explained(rows, kernels)
    known = spread(rows, by_row, parts, between=False)
    stack = wider(spread(rows, by_gpu, parts), known)
    gpu = wider(spread(rows, by_source, parts), known)
    nothing = wider(wider(spread(rows, neither, parts), stack), gpu)
    return {"stack and GPU": known, "stack": stack, "GPU": gpu, "neither": nothing}


def explained(rows: Sequence[Row], kernels: Kernels) -> list[tuple[float, float]]:
    """For each row how far network and memory let it lie below and above, in logarithms."""
    start = planner_fit.Parameters()
    by_family = {n: planner_fit.constants(n, start, kernels[n]) for n in planner_fit.FAMILIES}
    found = [by_family[planner_fit.family(row.gpu)] for row in rows]
    pairs = zip(rows, found, strict=True)
    return [planner_fit.explained(planner_fit.with_stack(row, start, c), c) for row, c in pairs]


def wider(one: Spread, other: Spread) -> Spread:
    """The wider of two on each side."""
    return Spread(max(one.below, other.below), max(one.above, other.above))


def spread(
    rows: Sequence[Row],
    errors: Sequence[float],
    parts: Sequence[tuple[float, float]],
    *,
    skip: str = "",
    between: bool = True,
) -> Spread:
    """Quantiles of rows left out, sources counting alike; `skip` is one that is not looked at.

    `between`: the interval is for a source that is not among them, of which there are few.
    """
    counts = Counter(row.source for row in rows)
    missed = []
    for row, error, (slower, faster) in zip(rows, errors, parts, strict=True):
        if row.source != skip:
            off = -math.log1p(error)
            low = math.sqrt(max(0.0, off * off - slower * slower)) if off < 0 else 0.0
            high = math.sqrt(max(0.0, off * off - faster * faster)) if off > 0 else 0.0
            missed.append(Missed(low, high, 1.0 / max(counts[row.source], FEW_ROWS)))
    wider_by = few_groups(len(counts) - (skip in counts)) if between else 1.0
    below = wider_by * _quantile([(m.below, m.weight) for m in missed])
    above = wider_by * _quantile([(m.above, m.weight) for m in missed])
    # Few sources do not settle on which side the next one lies: no side is less than half the other.
    below, above = max(below, above / 2), max(above, below / 2)
    return Spread(round(-math.expm1(-below), 3), round(math.expm1(above), 3))


def few_groups(num: int) -> float:
    """How much wider an interval for one more source is than one about the mean of these."""
    return math.sqrt(1 + 1 / num)


def _quantile(values: list[tuple[float, float]]) -> float:
    """The least value that all but `OUTSIDE` of the weight stays within."""
    rest = OUTSIDE * sum(weight for _, weight in values)
    for value, weight in sorted(values, reverse=True):
        rest -= weight
        if rest < 0:
            return value
    return 0.0
