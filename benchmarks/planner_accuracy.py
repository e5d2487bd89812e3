"""How far the planner is from published rows, and how many its 80 % interval holds, by source.

`python -m benchmarks.planner_accuracy [CSV …] [--system NAME] [--link NAME] [--json OUT]`. Without files: the
rows of benchmarks/data with each source left out of the fit in turn, then the XTuner and LLaMA-Factory rows
and every memory verdict. With files of either layout (see planner_rows): the shipped constants on those rows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import planner_fit, planner_spreads
from benchmarks.planner_kernels import attention_speeds
from benchmarks.planner_rows import (
    LLAMA_FACTORY,
    XTUNER,
    Row,
    Unplanned,
    assumptions,
    read_rows,
)
from tgsbench.errors import TgsError
from tgsbench.metrics.figures import memory_fraction, tgs_of_gpu
from tgsbench.planner.interval import error_bar
from tgsbench.planner.machine import Machine, find_constants
from tgsbench.planner.memory import memory_plan
from tgsbench.planner.time import StepEstimate, step_time
from tgsbench.planner.verdict import verdict_of
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.hardware import Constants
from tgsbench.systems.registry import find_system


class Judged(Struct, frozen=True, kw_only=True):
    """One row beside its prediction."""

    label: str
    source: str
    published: float | None
    predicted: float
    low: float
    high: float
    error: float | None
    memory_share: float
    """Of the card, as planned."""
    verdict: str
    verdict_right: bool
    cause: str


def main() -> None:
    """Print every table; exit code 0 whatever the figures are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--system", default="", help="stack that made the rows (planner.systems)")
    parser.add_argument("--link", default="", help="interconnect of the rows (presets/links)")
    parser.add_argument("--json", type=Path, help="write the tables as JSON too")
    args = parser.parse_args()
    tables: dict[str, Any] = {}
    if args.files:
        try:
            if args.system:
                find_system(args.system)
            for path in args.files:
                tables[str(path)] = published(str(path), *read_rows(path, args.system, args.link))
                for note in assumptions(path):
                    print(f"  assumed: {note}")
        except TgsError as error:
            sys.exit(f"error: {error.msg}" + (f"\n  try: {error.hint}" if error.hint else ""))
    else:
        tables["left out"] = left_out()
        tables["xtuner"] = published("XTuner rows", *read_rows(XTUNER))
        tables["llamafactory"] = published("LLaMA-Factory rows", *read_rows(LLAMA_FACTORY))
        _targets(tables)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n", "utf-8")


def left_out() -> list[dict[str, Any]]:
    """Every row with its source left out of the fit, the interval of a stack never seen around it."""
    kernels, rows = attention_speeds(), planner_fit.all_rows()
    errors = planner_fit.left_out(rows, kernels, lambda row: row.source)
    parts = planner_spreads.explained(rows, kernels)
    judged = []
    for row, error, (slower, faster) in zip(rows, errors, parts, strict=True):
        spread = planner_spreads.spread(rows, errors, parts, skip=row.source)
        below, above = (
            math.hypot(-math.log1p(-spread.below), slower),
            math.hypot(math.log1p(spread.above), faster),
        )
        predicted = row.tgs * (1 + error)
        bar = TgsRange(estimate=predicted, low=predicted * math.exp(-below), high=predicted * math.exp(above))
        judged.append(Placed(row.source, row.label, row.tgs, bar))
    print(f"{len(rows)} rows, each with its source left out of the fit and of the interval")
    by_source(judged)
    return [
        {"source": j.source, "label": j.label, "published": j.published, "error": j.error} for j in judged
    ]


class Placed(Struct, frozen=True):
    """One row beside its interval."""

    source: str
    label: str
    published: float
    tgs: TgsRange

    @property
    def error(self) -> float:
        """Planned over published, less one."""
        return self.tgs.estimate / self.published - 1

    @property
    def inside(self) -> bool:
        """Does the interval hold the row?"""
        return self.tgs.low <= self.published <= self.tgs.high


def by_source(rows: Sequence[Placed]) -> None:
    """Error, coverage and width of each source, the worst first; then of all, and the furthest rows."""
    groups: dict[str, list[Placed]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    heads = ("rows", "mean", "median", "worst", "inside", "low", "high")
    print(f"  {'source; |error|, share inside the interval':<44} " + " ".join(f"{h:>7}" for h in heads))
    for source, group in sorted(groups.items(), key=lambda item: -_mean(abs(r.error) for r in item[1])):
        _print_group(source, group)
    if len(groups) > 1:
        _print_group("all rows", rows)
        macro = _mean(_mean(abs(r.error) for r in group) for group in groups.values())
        inside = _mean(_mean(r.inside for r in group) for group in groups.values())
        cells = _cells(len(groups), macro, None, None, inside)
        print(f"  {'mean over sources':<44} {cells}")
    for row in sorted(rows, key=lambda r: -abs(r.error))[:FURTHEST]:
        figures = f"{row.published:9.1f} planned {row.tgs.estimate:9.1f} {100 * row.error:+6.1f} %"
        print(f"    {row.label:<58} {figures}")


FURTHEST = 8


def _print_group(name: str, rows: Sequence[Placed]) -> None:
    sizes = sorted(abs(row.error) for row in rows)
    low, high = (_mean(getattr(r.tgs, side) / r.tgs.estimate - 1 for r in rows) for side in ("low", "high"))
    inside = _mean(r.inside for r in rows)
    cells = _cells(len(rows), _mean(sizes), sizes[len(sizes) // 2], sizes[-1], inside, low, high)
    print(f"  {name:<44} {cells}")


def _cells(num: int, *shares: float | None) -> str:
    texts = ("" if share is None else f"{100 * share:.1f} %" for share in shares)
    return f"{num:>7} " + " ".join(f"{text:>7}" for text in texts)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def published(title: str, rows: Sequence[Row], unplanned: Sequence[Unplanned]) -> list[dict[str, Any]]:
    """Every row beside its prediction with the shipped constants."""
    print(f"\n{title}: {len(rows)} planned, {len(unplanned)} not")
    print(f"  {'row':<48} {'published':>9} {'predicted':>9} {'error':>7}  memory  verdict")
    judged = []
    for row in rows:
        found = find_constants(row.gpu.name)
        if found is None:
            print(f"  {row.label:<48} no constants for {row.gpu.name}")
            continue
        judged.append(judge(row, found))
        _print_row(judged[-1])
    for other in unplanned:
        print(f"  {other.label:<48} not planned: {other.reason}")
    placed = [
        Placed(j.source, j.label, j.published, TgsRange(estimate=j.predicted, low=j.low, high=j.high))
        for j in judged
        if j.published is not None
    ]
    if placed:
        by_source(placed)
    wrong = [j.label for j in judged if not j.verdict_right]
    print(
        f"  memory verdicts: {len(judged) - len(wrong)} of {len(judged)} right"
        + (f", wrong: {wrong}" if wrong else "")
    )
    return [{field: getattr(j, field) for field in j.__struct_fields__} for j in judged]


def judge(row: Row, found: Constants) -> Judged:
    """Predict one row and say what its error comes from."""
    work = replace(row.work, kernel=_kernel(row, found))
    machine = Machine(row.gpu, row.link, found)
    time, memory = step_time(work, machine), memory_plan(work)
    predicted = tgs_of_gpu(work.tokens_per_gpu, time.step_s)
    share = memory_fraction(memory.peak.total, row.gpu) or 0.0
    verdict = verdict_of(memory, row.gpu)
    error = None if row.tgs is None else predicted / row.tgs - 1
    bar, _ = error_bar(work, machine, time, predicted, verdict)
    ran_out = row.tgs is None
    return Judged(
        label=row.label,
        source=row.source,
        published=row.tgs,
        predicted=predicted,
        low=bar.low,
        high=bar.high,
        error=error,
        memory_share=share,
        verdict=verdict,
        verdict_right=(verdict == "out of memory") == ran_out,
        cause=memory.peak.name if error is None else cause(row, work, machine, time, error, verdict),
    )


def _kernel(row: Row, found: Constants) -> str:
    """The row's kernel, or the first with a known speed."""
    known = [speed.kernel for speed in found.attention]
    return row.work.kernel if row.work.kernel in known else known[0]


def cause(row: Row, work: Any, machine: Machine, time: StepEstimate, error: float, verdict: str) -> str:
    """What a row's error can be laid at, from the prediction's own terms; never a model's name."""
    if row.label in planner_fit.LINK_ROWS.values() and row.work.system.name == "xtuner":
        return "the network's constants are fitted on this row"
    top = sorted(time.items.items(), key=lambda item: -item[1])[:2]
    terms = ", ".join(f"{name} {100 * seconds / time.step_s:.0f} %" for name, seconds in top)
    if abs(error) < 0.05:
        return f"within 5 % ({terms})"
    if verdict != "fits" and error > 0:
        return "memory is tight: allocator retries cost time that no term predicts"
    network = time.items["gather_exposed"] + time.items["all_to_all_network"]
    if network > 0.1 * time.step_s:
        return _implied(row, work, machine, error)
    return f"largest terms: {terms}"


def _implied(row: Row, work: Any, machine: Machine, error: float) -> str:
    """The network rate at which the row would come out as published."""
    assert row.tgs is not None and machine.constants is not None
    items = step_time(work, machine).items
    gathers = items["gather_exposed"] > items["all_to_all_network"]
    key = "gather_gb_per_s" if gathers else "all_to_all_gb_per_s"
    now = getattr(row.link, key)
    if now is None:
        return "network-bound, with the datasheet's figure for the network"
    implied = planner_fit.solve_rate(row.link, key, replace(row, work=work), machine.constants)
    what, needed = "gathers" if gathers else "all-to-all", getattr(implied, key)
    if needed > 0.99 * planner_fit.FASTEST_GB_PER_S:
        return f"network-bound: {what} at {now:.1f} GB/s; no rate of the network makes the row as fast"
    return f"network-bound: {what} at {now:.1f} GB/s; the row as published needs {needed:.1f}"


def _print_row(row: Judged) -> None:
    tgs = f"{row.published:9.1f}" if row.published is not None else f"{'oom':>9}"
    error = f"{100 * row.error:+6.1f}%" if row.error is not None else " " * 7
    mark = "" if row.verdict_right else "  WRONG"
    memory = f"{100 * row.memory_share:4.0f} %"
    print(f"  {row.label:<48} {tgs} {row.predicted:9.1f} {error}  {memory}  {row.verdict}{mark}; {row.cause}")


def _summary(name: str, values: Sequence[float]) -> None:
    sizes = [abs(v) for v in values]
    if not sizes:
        print(f"  {name}: no rows")
        return
    bias = sum(values) / len(values)
    print(
        f"  {name:<26} mean |error| {100 * sum(sizes) / len(sizes):5.2f} %   worst {100 * max(sizes):5.1f} %"
        f"   bias {100 * bias:+5.2f} %   n {len(sizes)}"
    )


def _targets(tables: dict[str, Any]) -> None:
    """The figures that were set out to be reached, beside the measured ones."""
    fitted = planner_fit.LINK_ROWS.values()
    rows = {row["label"]: row["error"] for row in tables["xtuner"]}
    first_model = [
        error for label, error in rows.items() if label.startswith(next(iter(rows)).rsplit("_", 1)[0])
    ]
    others = [e for label, e in rows.items() if e not in first_model and label not in fitted]
    print("\nTargets")
    _summary("rows with their source left out (<= 10 %)", [row["error"] for row in tables["left out"]])
    _summary(f"{len(first_model)} rows of the first model (<= 6 %)", first_model)
    _summary("other rows (<= 10 %)", others)
    right = [row["verdict_right"] for key in ("xtuner", "llamafactory") for row in tables[key]]
    print(f"  memory verdicts right: {sum(right)} of {len(right)}")


if __name__ == "__main__":
    sys.exit(main())
