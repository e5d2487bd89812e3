"""How far the planner is from published rows: error per row with its cause, and rows left out of the fit.

`python -m benchmarks.planner_accuracy [CSV …] [--system NAME] [--link NAME] [--json OUT]`. Without files:
the calibration rows (fitted, one GPU left out, one length left out), the XTuner and LLaMA-Factory rows
(nothing fitted on them but the two that the cluster's network takes) and every memory verdict. With files
of either layout (see planner_rows): the shipped constants on those rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import planner_fit
from benchmarks.planner_rows import (
    CALIBRATION,
    LLAMA_FACTORY,
    XTUNER,
    Row,
    Unplanned,
    assumptions,
    read_rows,
)
from tgsbench.errors import TgsError
from tgsbench.metrics.figures import memory_fraction, tgs_of_gpu
from tgsbench.planner.machine import Machine, find_constants
from tgsbench.planner.memory import memory_plan
from tgsbench.planner.time import StepEstimate, step_time
from tgsbench.planner.verdict import verdict_of
from tgsbench.schema.hardware import Constants
from tgsbench.systems.registry import find_system


class Judged(Struct, frozen=True, kw_only=True):
    """One row beside its prediction."""

    label: str
    published: float | None
    predicted: float
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
        tables["calibration"] = calibration()
        tables["xtuner"] = published("XTuner rows", *read_rows(XTUNER))
        tables["llamafactory"] = published("LLaMA-Factory rows", *read_rows(LLAMA_FACTORY))
        _targets(tables)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n", "utf-8")


def calibration() -> dict[str, Any]:
    """Fit on all rows, then with each GPU and each length left out."""
    kernels = planner_fit.attention_speeds()
    rows, _ = read_rows(CALIBRATION)
    parameters = planner_fit.fit_parameters(rows, kernels)
    tables = {
        "fitted": planner_fit.errors(rows, parameters, kernels),
        "leave-one-GPU-out": planner_fit.leave_out(rows, kernels, lambda row: row.gpu.name),
        "leave-one-length-out": planner_fit.leave_out(rows, kernels, lambda row: row.work.seq_len),
    }
    print(f"Calibration rows: {len(rows)}, constants fitted on them")
    for name, values in tables.items():
        _summary(name, values)
        for gpu in sorted({row.gpu.name for row in rows}):
            _summary(f"  {gpu}", [e for e, row in zip(values, rows, strict=True) if row.gpu.name == gpu])
    worst = sorted(zip(tables["leave-one-GPU-out"], rows, strict=True), key=lambda pair: -abs(pair[0]))[:8]
    print("  furthest with their GPU left out:")
    for error, row in worst:
        share = memory_fraction(memory_plan(row.work).peak.total, row.gpu) or 0.0
        print(f"    {row.label:<48} {100 * error:+6.1f} %   planned memory {100 * share:.0f} % of the card")
    return {name: dict(zip((r.label for r in rows), values, strict=True)) for name, values in tables.items()}


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
    _summary("mean over rows with a TGS", [j.error for j in judged if j.error is not None])
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
    ran_out = row.tgs is None
    return Judged(
        label=row.label,
        published=row.tgs,
        predicted=predicted,
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
    for name in ("leave-one-GPU-out", "leave-one-length-out"):
        _summary(f"{name} (<= 6 %)", list(tables["calibration"][name].values()))
    _summary(f"{len(first_model)} rows of the first model (<= 6 %)", first_model)
    _summary("other rows (<= 10 %)", others)
    right = [row["verdict_right"] for key in ("xtuner", "llamafactory") for row in tables[key]]
    print(f"  memory verdicts right: {sum(right)} of {len(right)}")


if __name__ == "__main__":
    sys.exit(main())
