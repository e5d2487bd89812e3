"""A comparison in lines for people: what differs first, then the ratio and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tgsbench import units
from tgsbench.metrics.ratio import Interval, Ratio
from tgsbench.models.flops import XTUNER
from tgsbench.report.forecast import forecast_text, mfu_text
from tgsbench.results.compare import Comparison, Difference
from tgsbench.results.rows import Row


def table(rows: Sequence[Row]) -> list[str]:
    """One aligned line per row; TFLOPs in the first convention a row has, named."""
    shown = [*_COLUMNS, *(column for column in _COSTS if any(map(column.cell, rows)))]
    columns = [[column.title, *map(column.cell, rows)] for column in shown]
    padded = [_padded(texts, column.right) for texts, column in zip(columns, shown, strict=True)]
    return ["  ".join(line) for line in zip(*padded, strict=True)]


def _padded(texts: list[str], right: bool) -> list[str]:
    width = max(map(len, texts))
    return [text.rjust(width) if right else text.ljust(width) for text in texts]


def forecast_lines(rows: Sequence[Row]) -> list[str]:
    """Of each run that keeps a forecast: predicted beside measured."""
    told = [(row.label, forecast_text(row.forecast, row.tgs)) for row in rows]
    return [f"{label}: predicted {text}" for label, text in told if text]


def figure_text(value: float, row: Row) -> str:
    """TGS or TFLOPs of a row; published ones as they were published."""
    return units.as_published(value) if row.kind == "published" else units.rate(value)


def _tgs(row: Row) -> str:
    return figure_text(row.tgs, row) if row.tgs else no_figure(row)


def no_figure(row: Row) -> str:
    """The text in place of a missing TGS: how the run ended, or "-" where the source gives none."""
    return {"oom": "OOM", "ok": "-"}.get(row.status, row.status)


def interval_text(interval: Interval | None) -> str:
    """An interval of TGS; empty where there is none."""
    return f"{units.rate(interval[0])} to {units.rate(interval[1])}" if interval else ""


def interval_of(row: Row) -> str:
    """The same with a plan's, which is one of 80 %."""
    return f"80 %: {interval_text(row.range80)}" if row.range80 else interval_text(row.ci95)


def tflops_text(row: Row) -> str:
    """TFLOPs with the name of their convention: xtuner's where the row has it."""
    name = next((n for n in (XTUNER, *row.tflops) if n in row.tflops), "")
    return f"{figure_text(row.tflops[name], row)} {name}" if name else ""


def system_text(row: Row) -> str:
    """Engine or system, and FP8 where products run in it."""
    return f"{row.system}, {row.linear}" if row.linear else row.system


class _Column(NamedTuple):
    title: str
    cell: Callable[[Row], str]
    right: bool = True


_COLUMNS: Final = (
    _Column("", lambda row: row.label, right=False),
    _Column("system", system_text, right=False),
    _Column("GPUs", lambda row: f"{row.num_gpus} x {row.gpu}" if row.num_gpus else row.gpu, right=False),
    _Column("length", lambda row: units.length(row.seq_len) if row.seq_len else ""),
    _Column("sp", lambda row: str(row.sp or "")),
    _Column("TGS", _tgs),
    _Column("95 % interval", interval_of),
    _Column("TFLOPs", tflops_text),
    _Column("MFU", lambda row: mfu_text(row.mfu, row.mfu_bf16)),
    _Column("memory", lambda row: f"{row.mem_peak_gib:.1f} GiB" if row.mem_peak_gib else ""),
)
"""Columns of `tgsbench compare`, from the left."""


def gpu_hours_text(row: Row) -> str:
    """GPU-hours of a billion tokens, where a price makes them matter."""
    return units.rate(row.cost.gpu_hours) if row.cost and row.cost.usd is not None else ""


def usd_text(row: Row) -> str:
    """USD of a billion tokens; empty without a price."""
    return f"{row.cost.usd:,.0f}" if row.cost and row.cost.usd is not None else ""


def kwh_text(row: Row) -> str:
    """Energy of the GPUs for a billion tokens; empty where nobody measured their power."""
    return units.rate(row.cost.kwh) if row.cost and row.cost.kwh is not None else ""


OWN_GAP = 0.02
"""A system's own figure that is further from ours is explained."""


def own_text(row: Row) -> str:
    """A system's own figure, and how far it is from ours."""
    if row.own_tgs is None:
        return ""
    gap = _gap(row)
    return units.rate(row.own_tgs) + (f" ({gap:+.1%})" if gap is not None else "")


def _gap(row: Row) -> float | None:
    return row.own_tgs / row.tgs - 1 if row.own_tgs and row.tgs else None


def start_up_text(row: Row) -> str:
    """From the command to the first step; empty where it was not measured."""
    return units.duration(round(row.start_up_s)) if row.start_up_s else ""


def _failed(row: Row) -> str:
    """The cause of a row without a figure; one that ran says its status before it."""
    return row.reason if row.reason.startswith(row.status) else f"{row.status}: {row.reason}"


def unequal_lines(rows: Sequence[Row]) -> list[str]:
    """What is not equal between rows that ran in turns: failures, own figures far from ours, own ways."""
    told = []
    for row in rows:
        gap = _gap(row)
        if row.tgs is None and row.reason:
            told.append(f"{row.label}: {_failed(row)}")
        if gap is not None and abs(gap) > OWN_GAP:
            told.append(f"{row.label}: its own figure is {gap:+.1%} from ours: {row.own_basis}")
        told += [f"{row.label}: {what}" for what in row.unequal]
    return told


_COSTS: Final = (
    _Column("own figure", own_text),
    _Column("start-up", start_up_text),
    _Column("config lines", lambda row: str(row.config_lines or "")),
    _Column("GPU-hours/1B tokens", gpu_hours_text),
    _Column("USD/1B tokens", usd_text),
    _Column("kWh/1B tokens", kwh_text),
)
"""Columns that are shown where one row has something to say."""


def lines(comparison: Comparison) -> list[str]:
    """One comparison: differences, reasons, verdict with its ratio, notes."""
    a, b = comparison.a, comparison.b
    text = [f"{a.label} against {b.label}"]
    text += [f"  {difference_text(d)}" for d in comparison.differences] or ["  nothing known differs"]
    text.append(f"  {verdict_text(comparison)}")
    text += [f"    because {reason}" for reason in comparison.reasons]
    text += [f"  note: {note}" for note in comparison.notes]
    return text


def difference_text(difference: Difference) -> str:
    """What differs; `!` marks what makes the rows incomparable."""
    mark = "!" if difference.blocks else " "
    why = f"  ({difference.why})" if difference.why else ""
    return f"{mark} {difference.what}: {difference.a} | {difference.b}{why}"


def verdict_text(comparison: Comparison) -> str:
    """Verdict and ratio on one line."""
    if comparison.ratio is None:
        return comparison.verdict
    text = ratio_text(comparison.ratio)
    if comparison.forced:
        return f"FORCED {text}, although {comparison.verdict}"
    return f"{comparison.verdict}: {text}"


def ratio_text(ratio: Ratio) -> str:
    """1.084x (1.071 to 1.096, p = 0.0003)."""
    details = []
    if ratio.ci95 is not None:
        details.append(f"95 % interval {ratio.ci95[0]:.3f} to {ratio.ci95[1]:.3f}")
    if ratio.p_value is not None:
        details.append(f"p = {ratio.p_value:.2g}")
    return f"{ratio.value:.3f}x" + (f" ({', '.join(details)})" if details else f" ({ratio.method})")
