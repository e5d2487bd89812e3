"""A sweep's points in lines for people: a table, fastest first, and by how much the best one leads."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tgsbench import units
from tgsbench.report.comparison import interval_text
from tgsbench.results.compare import Comparison, compare
from tgsbench.results.rows import from_result
from tgsbench.schema.run import Result

_HEAD = ("point", "TGS", "95 % interval", "memory", "predicted", "how it ended")
_MOST = 10
"""Comparisons with the best that are printed."""


class GridRow(Struct, frozen=True, kw_only=True):
    """One point."""

    label: str
    result: Result | None = None
    note: str = ""
    """Why there is no result."""
    forecast_tgs: float | None = None

    @property
    def tgs(self) -> float | None:
        """Its TGS, of a run that ended well."""
        return self.result.tgs.median if self.result is not None and self.result.status == "ok" else None


def grid_lines(rows: Sequence[GridRow]) -> list[str]:
    """The table, then the best point against the others."""
    ordered = sorted(rows, key=lambda row: (row.tgs is None, row.result is None, -(row.tgs or 0.0)))
    cells = [_HEAD, *map(_cells, ordered)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = [_aligned(line, widths) for line in cells]
    return table + _against_best([row for row in ordered if row.tgs is not None])


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *figures, last = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
    return "  ".join((first.strip().ljust(widths[0]), *figures, last.strip())).rstrip()


def _cells(row: GridRow) -> tuple[str, ...]:
    foreseen = units.rate(row.forecast_tgs) if row.forecast_tgs else "-"
    result = row.result
    if result is None:
        return row.label, "-", "", "", foreseen, row.note
    memory = f"{result.mem.peak_gib:.2f} GiB" if result.mem.peak_gib else ""
    tgs = "-" if row.tgs is None else units.rate(row.tgs)
    reason = f": {result.failure.reason}" if result.failure else ""
    return row.label, tgs, interval_text(result.tgs.ci95), memory, foreseen, f"{result.status}{reason}"


def _against_best(good: Sequence[GridRow]) -> list[str]:
    """As hyperfine ends: how much faster the best is than each other point."""
    if len(good) < 2:
        return []
    best, *others = good
    told = [f"  {_sentence(best, other)}" for other in others[:_MOST]]
    return ["", f"best: {best.label}", *told]


def _sentence(best: GridRow, other: GridRow) -> str:
    assert best.result is not None
    assert other.result is not None
    found = compare(from_result(best.result, label=best.label), from_result(other.result, label=other.label))
    if found.ratio is None:
        return f"not comparable with {other.label}: {'; '.join(found.reasons)}"
    return f"{found.ratio.value:.2f} x faster than {other.label}{_how_sure(found)}"


def _how_sure(found: Comparison) -> str:
    ratio = found.ratio
    assert ratio is not None
    low_high = f"{ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f}" if ratio.ci95 else "no interval"
    return f" ({low_high})" if found.verdict == "better" else f" ({low_high}, {found.verdict})"
