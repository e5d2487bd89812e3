"""What a few runs of a stack are worth to the planner, drawn from published rows.

`python -m benchmarks.planner_few [--runs N ...] [--draws N]`. For every source and GPU with rows to spare:
constants are fitted without that source, `plan --calibrate` sees N of its rows, drawn by chance, and plans
the others. Printed are their error, what share the calibrated 80 % interval holds, and its width.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence

from msgspec import Struct

from benchmarks import planner_fit
from benchmarks.planner_kernels import Kernels, attention_speeds
from benchmarks.planner_rows import Row
from tgsbench.metrics.figures import tgs_of_gpu
from tgsbench.planner.calibrate import Sample, calibrate
from tgsbench.planner.interval import error_bar
from tgsbench.planner.machine import Machine
from tgsbench.planner.memory import memory_plan
from tgsbench.planner.time import step_time
from tgsbench.planner.verdict import verdict_of
from tgsbench.schema.hardware import Constants

SPARE = 2
"""Rows that a group must have beyond those that are shown to the calibration."""


class Outcome(Struct, frozen=True):
    """One row that the calibration did not see."""

    error: float
    inside: bool


class Group(Struct, frozen=True):
    """Rows of one stack on one GPU, and constants that knew nothing of its source."""

    source: str
    gpu: str
    start: Constants
    samples: list[Sample]


def main() -> None:
    """Print one table for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[6, 4, 2], help="rows that calibrate")
    parser.add_argument("--draws", type=int, default=12, help="draws of each group")
    args = parser.parse_args()
    groups = all_groups(planner_fit.all_rows(), attention_speeds())
    for runs in args.runs:
        print(f"{runs} rows of a stack and GPU calibrate, {args.draws} draws; its other rows:")
        table(
            [
                (group, tried(group, runs, args.draws))
                for group in groups
                if len(group.samples) >= runs + SPARE
            ]
        )


def all_groups(rows: Sequence[Row], kernels: Kernels) -> list[Group]:
    """Rows by source and GPU, each with the constants that were fitted on all other sources."""
    groups = []
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        parameters = planner_fit.fit_parameters([row for row in rows if row.source != source], kernels)
        for gpu in sorted({row.gpu.name for row in own}):
            mine = [row for row in own if row.gpu.name == gpu]
            family = planner_fit.family(mine[0].gpu)
            start = planner_fit.constants(family, parameters, kernels[family])
            groups.append(Group(source, gpu, start, [_sample(row, parameters, start) for row in mine]))
    return groups


def _sample(row: Row, parameters: planner_fit.Parameters, start: Constants) -> Sample:
    assert row.tgs is not None
    work = planner_fit.with_stack(row, parameters, start).work
    return Sample(label=row.label, work=work, machine=Machine(row.gpu, row.link, start), tgs=row.tgs)


def tried(group: Group, runs: int, draws: int) -> tuple[list[Outcome], float]:
    """Rows left over of every draw, and the mean half-width that the calibrations stated."""
    rng = random.Random(0)
    outcomes, widths = [], []
    for _ in range(draws):
        chosen = set(rng.sample(range(len(group.samples)), runs))
        found = calibrate([group.samples[i] for i in sorted(chosen)], group.start, "few").constants
        widths.append(found.error_share)
        outcomes += [outcome(s, found) for i, s in enumerate(group.samples) if i not in chosen]
    return outcomes, sum(widths) / len(widths)


def outcome(sample: Sample, found: Constants) -> Outcome:
    """One row beside its plan by calibrated constants."""
    machine = Machine(sample.machine.gpu, sample.machine.link, found)
    time = step_time(sample.work, machine)
    planned = tgs_of_gpu(sample.work.tokens_per_gpu, time.step_s)
    verdict = verdict_of(memory_plan(sample.work), sample.machine.gpu)
    bar, _ = error_bar(sample.work, machine, time, planned, verdict)
    return Outcome(planned / sample.tgs - 1, bar.low <= sample.tgs <= bar.high)


def table(found: Sequence[tuple[Group, tuple[list[Outcome], float]]]) -> None:
    """A line for each stack and GPU, then the mean by rows and by groups."""
    heads = " ".join(f"{head:>7}" for head in ("mean", "median", "worst", "inside", "±"))
    print(f"  {'source':<36} {'GPU':<16} {'rows':>4} {heads}")
    for group, (outcomes, width) in found:
        cells = " ".join(f"{100 * value:5.1f} %" for value in (*_summary(outcomes), width))
        print(f"  {group.source:<36} {group.gpu:<16} {len(group.samples):>4} {cells}")
    means = [_summary(outcomes)[0] for _, (outcomes, _) in found]
    sizes = [len(group.samples) for group, _ in found]
    by_rows = sum(mean * size for mean, size in zip(means, sizes, strict=True)) / sum(sizes)
    by_groups = math.fsum(means) / len(means)
    print(f"  mean over rows {100 * by_rows:.1f} %, over stacks and GPUs {100 * by_groups:.1f} %")


def _summary(outcomes: Sequence[Outcome]) -> tuple[float, float, float, float]:
    sizes = sorted(abs(one.error) for one in outcomes)
    inside = sum(one.inside for one in outcomes) / len(outcomes)
    return sum(sizes) / len(sizes), sizes[len(sizes) // 2], sizes[-1], inside


if __name__ == "__main__":
    main()
