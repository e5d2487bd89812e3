"""What the forecast screen shows, as plain values: a plan in a few lines, settings as rows; no widgets."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tgsbench import units
from tgsbench.planner.search import Candidate, Found
from tgsbench.presets import catalog
from tgsbench.report.forecast import mfu_text
from tgsbench.report.plan import manner, range_text
from tgsbench.schema.forecast import Forecast
from tgsbench.tui.widgets.table import Row

MAX_SETTINGS = 100
"""Of the settings that were found: the fastest, more than anybody reads."""
_NUM_ITEMS = 4
"""Largest parts of memory and time that are named."""


def summary(plan: Forecast) -> Table:
    """Verdict first, then speed, memory and time with their largest parts, notes last."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    fits = plan.verdict in ("fits", "tight")
    grid.add_row(
        "verdict", Text(f"{'✓' if fits else '✗'} {plan.verdict}: {plan.reason}", "" if fits else "red")
    )
    grid.add_row("TGS", Text(_speed(plan)))
    if plan.step_s is not None:
        grid.add_row("step", Text(f"{units.duration(plan.step_s)}: {_shares(plan)}"))
    grid.add_row("memory", Text(f"{plan.memory.total_gib:.1f} GiB a GPU: {_memory(plan)}"))
    grid.add_row("on", Text(f"{plan.num_gpus} × {plan.gpu}, dp {plan.dp} · sp {plan.sp}, {plan.engine}"))
    for note in plan.notes:
        grid.add_row("note", Text(note))
    return grid


def _speed(plan: Forecast) -> str:
    mfu = f", MFU {mfu_text(plan.mfu, plan.mfu_bf16)}" if plan.mfu is not None else ""
    return range_text(plan.tgs) + (" tokens/GPU/s" + mfu if plan.tgs else "")


def _shares(plan: Forecast) -> str:
    whole_s = plan.step_s or 1.0
    return ", ".join(f"{name} {units.percent(part)}" for name, part in _largest(plan.time, whole_s))


def _memory(plan: Forecast) -> str:
    return ", ".join(f"{name} {part:.1f}" for name, part in _largest(plan.memory.items, 1.0))


def _largest(items: dict[str, float], whole: float) -> list[tuple[str, float]]:
    named = sorted(items.items(), key=lambda item: -item[1])[:_NUM_ITEMS]
    return [(name.replace("_", " "), size / whole) for name, size in named]


COLUMNS = (
    ("tgs", "TGS", 7), ("ratio", "×this", 5), ("gib", "GiB", 5), ("fits", "fits", 5), ("sp", "sp", 3),
    ("dp", "dp", 4), ("batch", "b", 2), ("checkpoints", "recompute", 9), ("engine", "engine", 44),
)  # fmt: skip


def rows(found: Found, plan: Forecast) -> list[Row]:
    """The found settings, fastest first; how much faster each is than what was planned."""
    return [(str(index), _cells(one, plan)) for index, one in enumerate(found.candidates[:MAX_SETTINGS])]


def _cells(one: Candidate, plan: Forecast) -> tuple[str | Text, ...]:
    ratio = f"{one.tgs / plan.tgs.estimate:.2f}×" if plan.tgs and plan.tgs.estimate else "-"
    return (
        units.rate(one.tgs).rjust(7),
        ratio.rjust(5),
        f"{one.total_gib:.1f}".rjust(5),
        one.verdict,
        str(one.sp).rjust(3),
        str(one.dp).rjust(4),
        str(one.micro_batch).rjust(2),
        one.checkpointing,
        manner(one),
    )


def preset_name(base: str, one: Candidate) -> str:
    """A name for a found setting that no preset has yet."""
    return catalog.free_name(f"my_{base.removeprefix('my_')}_sp{one.sp}_{one.checkpointing}")


def merged(assignments: Sequence[str], change: Sequence[str]) -> list[str]:
    """Assignments of an edited preset with those of a setting over them, each key once."""
    over = {text.partition("=")[0] for text in change}
    return [text for text in assignments if text.partition("=")[0] not in over] + list(change)
