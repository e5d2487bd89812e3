"""The virtual GPU's clock and the planner beside published rows: error of each, and of what it is made.

python -m benchmarks.virtual_clock --rows FILE [--engine NAME …]

FILE is what `benchmarks.virtual_presets --rows FILE --root FOLDER` wrote: runs of the presets of the XTuner
rows, and of the settings in OTHERS, each under one of our engines. The clock takes its seconds from the
planner, with the shares of the stack that published the row; calls, streams and host time are those of our
run. Steps that were run with fewer micro-steps are lengthened as the planner lengthens them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.planner_rows import OTHERS as OTHER_TABLES
from benchmarks.planner_rows import XTUNER, Row, read_rows
from benchmarks.virtual_presets import Held
from benchmarks.virtual_presets import read_rows as read_held
from tgsbench.planner.machine import Machine, find_constants
from tgsbench.planner.time import step_time
from tgsbench.planner.workload import work_of
from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset
from tgsbench.store.run_dir import RunDir
from tgsbench.virtual_gpu.account import inside, step_window
from tgsbench.virtual_gpu.clock import Timeline, simulate
from tgsbench.virtual_gpu.durations import Durations
from tgsbench.virtual_gpu.log import log_path, read_log
from tgsbench.virtual_gpu.projection import clocked
from tgsbench.virtual_gpu.settings import LOG_FOLDER

_FMS = "hardware.num_gpus=96 workload.seq_len=4k training.micro_batch=2 hardware.gpu=H100-SXM5-80GB"
_TITAN = "hardware.gpu=H100-HBM2E-96GB-500W workload.seq_len=8k training.micro_batch=2"
OTHERS = {
    "Llama2-7b H100-80GB n96 S4096 b2x1": (
        "llama2_7b_8k", f"{_FMS} training.checkpointing=none parallel.shard=8"
    ),
    "Llama2-70b H100-80GB n96 S4096 b2x1": ("llama2_70b_8k", f"{_FMS} training.checkpointing=selective"),
    "Llama 3.1 8B H100-96GB-HBM2e-500W n8 S8192 b2x1": (
        "llama3_8b_8k", f"{_TITAN} hardware.num_gpus=8 training.checkpointing=selective"
    ),
    "Llama 3.1 8B H100-96GB-HBM2e-500W n128 S8192 b2x1": (
        "llama3_8b_8k", f"{_TITAN} hardware.num_gpus=128 training.checkpointing=selective"
    ),
}  # fmt: skip
"""FSDP rows of other stacks: the preset and settings with which fsdp2 does the same work."""
TERMS = ("products", "attention", "element-wise", "exposed", "idle", "stragglers")
_PLANNED = {
    "gemm": "products",
    "head": "products",
    "attention_forward": "attention",
    "attention_recompute": "attention",
    "attention_backward": "attention",
    "all_to_all_node": "exposed",
    "all_to_all_network": "exposed",
    "gather_exposed": "exposed",
    "gather_step": "exposed",
    "host": "idle",
    "step_overhead": "idle",
    "stragglers": "stragglers",
}
"""Terms of the planner; what is not named is element-wise."""


class Timed(Struct, frozen=True, kw_only=True):
    """One published row, planned and on the clock; seconds of an optimizer step."""

    label: str
    engine: str
    published_s: float
    planned: dict[str, float]
    clock: dict[str, float]

    def error(self, terms: dict[str, float]) -> float:
        """Of the TGS that these terms give."""
        return self.published_s / sum(terms.values()) - 1


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--engine", action="append", default=[])
    args = parser.parse_args()
    held = [row for row in read_held(args.rows) if row.status == "virtual" and row.run]
    for engine in args.engine or ["fsdp2", "deepspeed"]:
        timed = [timed_row(row, run) for row, run in matched(held, engine)]
        if timed:
            print_errors(engine, timed)
            print_terms(timed)


def matched(held: Sequence[Held], engine: str) -> list[tuple[Row, Held]]:
    """Published rows with the run that does their work under an engine."""
    of_preset = {run.preset: run for run in held if run.engine == engine and not _changes_work(run)}
    rows = [(row, of_preset[row.label]) for row in read_rows(XTUNER)[0] if row.label in of_preset]
    of_sets = {(run.preset, " ".join(run.sets)): run for run in held if run.engine == engine}
    for table in OTHER_TABLES:
        known = ((row, OTHERS.get(row.label)) for row in read_rows(table)[0])
        rows += [(row, of_sets[way]) for row, way in known if way in of_sets]
    return rows


def _changes_work(run: Held) -> bool:
    return any(not text.startswith("engine.") for text in run.sets)


def timed_row(row: Row, run: Held) -> Timed:
    """Plan the row, and put its run on the clock."""
    assert row.tgs is not None
    machine = Machine(row.gpu, row.link, find_constants(row.gpu.name))
    planned = _grouped(step_time(row.work, machine).items)
    return Timed(
        label=row.label,
        engine=run.engine,
        published_s=row.work.tokens_per_gpu / row.tgs,
        planned=planned,
        clock=on_clock(row, run, machine),
    )


def _grouped(items: dict[str, float]) -> dict[str, float]:
    found = dict.fromkeys(TERMS, 0.0)
    for name, seconds in items.items():
        found[_PLANNED.get(name, "element-wise")] += seconds
    return found


def on_clock(row: Row, run: Held, machine: Machine) -> dict[str, float]:
    """Seconds of the row's optimizer step by term, from the calls that the run made."""
    folder = RunDir(Path(run.run))
    preset = folder.preset()
    work = work_of(preset, row.work.kernel)
    stack = row.work.system
    shares = {"product_share": stack.product_share, "attention_share": stack.attention_share}
    work = replace(work, system=replace(work.system, **shares))
    records = list(read_log(log_path(folder.path / LOG_FOLDER, 0)))
    steps = [event for event in folder.events() if isinstance(event, Step) and event.phase == "measure"]
    window = step_window(steps[-1], records)
    assert window is not None
    line = simulate(inside(records, window), Durations(work, machine, records))
    whole = replace(work, accumulation=row.work.accumulation)
    longer = step_time(whole, machine).step_s / step_time(work, machine).step_s
    planned = step_time(row.work, machine)
    waiting = planned.items["stragglers"] / (planned.step_s - planned.items["stragglers"])
    terms = {name: longer * seconds for name, seconds in _terms(line, preset).items()}
    return terms | {"stragglers": waiting * sum(terms.values())}


def _terms(line: Timeline, preset: Preset) -> dict[str, float]:
    """The timeline as the planner's terms; kernels that go on at once are counted by their share."""
    found = clocked(preset, line, None, 0.0)
    computing = {"products": 0.0, "attention": 0.0, "element-wise": 0.0}
    for kind, seconds in found.by_kind.items():
        if kind in computing or kind == "copies":
            computing[kind if kind in computing else "element-wise"] += seconds
    share = found.compute_s / sum(computing.values())
    return {name: seconds * share for name, seconds in computing.items()} | {
        "exposed": found.exposed_s,
        "idle": found.idle_s,
    }


def print_errors(engine: str, timed: Sequence[Timed]) -> None:
    """TGS of each row, the error of both, and their means."""
    print(f"{'row':50} {'published':>9} {'planned':>8} {'':7} {'clock':>8}         engine {engine}")
    for row in timed:
        cells = (
            f"{sum(terms.values()):8.2f} {100 * row.error(terms):+6.1f}%"
            for terms in (row.planned, row.clock)
        )
        print(f"{row.label:50} {row.published_s:7.2f} s {' '.join(cells)}")
    plan, clock = (
        statistics.fmean(abs(row.error(getattr(row, side))) for row in timed) for side in ("planned", "clock")
    )
    print(
        f"{len(timed)} rows, mean |error|: planner {100 * plan:.1f} %, clock {100 * clock:.1f} %: "
        f"{clock / plan:.2f} x (0.75 asked)"
    )


def print_terms(timed: Sequence[Timed]) -> None:
    """Seconds of each term: the clock's less the planner's, as a share of the published step."""
    print(f"clock less planner, of the published step  {' '.join(f'{name:>12}' for name in TERMS)}")
    for row in timed:
        shares = ((row.clock[name] - row.planned[name]) / row.published_s for name in TERMS)
        print(f"{row.label:42} {' '.join(f'{100 * share:+11.1f}%' for share in shares)}")


if __name__ == "__main__":
    main()
