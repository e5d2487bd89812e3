"""A comparison in lines for people: what differs first, then the ratio and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from tgsbench import units
from tgsbench.metrics.ratio import Ratio
from tgsbench.models.flops import XTUNER
from tgsbench.report.forecast import forecast_text
from tgsbench.results.compare import Comparison, Difference
from tgsbench.results.rows import Row

_COLUMNS = ("", "system", "GPUs", "length", "sp", "TGS", "95 % interval", "TFLOPs", "MFU", "memory")


def table(rows: Sequence[Row]) -> list[str]:
    """One aligned line per row; TFLOPs in the first convention a row has, named."""
    cells = [_COLUMNS, *(row_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    return [
        "  ".join(_pad(text, w, i) for i, (text, w) in enumerate(zip(c, widths, strict=True))) for c in cells
    ]


def forecast_lines(rows: Sequence[Row]) -> list[str]:
    """Of each run that keeps a forecast: predicted beside measured."""
    told = [(row.label, forecast_text(row.forecast, row.tgs)) for row in rows]
    return [f"{label}: predicted {text}" for label, text in told if text]


def row_cells(row: Row) -> tuple[str, ...]:
    """What a table shows of one row."""
    tgs = units.rate(row.tgs) if row.tgs else ("OOM" if row.status == "oom" else row.status)
    interval = f"{units.rate(row.ci95[0])} to {units.rate(row.ci95[1])}" if row.ci95 else ""
    where = f"{row.num_gpus} x {row.gpu}" if row.num_gpus else row.gpu
    return (
        row.label,
        row.system,
        where,
        units.length(row.seq_len) if row.seq_len else "",
        str(row.sp or ""),
        tgs,
        interval,
        tflops_text(row),
        units.percent(row.mfu) if row.mfu is not None else "",
        f"{row.mem_peak_gib:.1f} GiB" if row.mem_peak_gib else "",
    )


def tflops_text(row: Row) -> str:
    """TFLOPs with the name of their convention: xtuner's where the row has it."""
    name = next((n for n in (XTUNER, *row.tflops) if n in row.tflops), "")
    return f"{units.rate(row.tflops[name])} {name}" if name else ""


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


def _pad(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in (0, 1, 2) else text.rjust(width)
