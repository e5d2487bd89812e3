"""Which charts a table gets: TGS as bars, length scaling, memory by length, longest sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from tgsbench import units
from tgsbench.presets.catalog import find_gpu
from tgsbench.report import svg
from tgsbench.report.comparison import figure_text, no_figure
from tgsbench.report.document import ReportEntry, ReportTable, brand
from tgsbench.results.rows import Row

_Pick = Callable[[ReportEntry], Row | None]
_FORECAST, _MEASURED = "predicted", "measured"


def charts_of(table: ReportTable) -> list[Markup]:
    """Charts of one table; what has too few points for a chart is left out."""
    picks = _picks(table)
    charts = [_tgs_bars(table, picks)] if _any_tgs(table, picks) else []
    charts += [_scaling(table, picks)] if len({e.seq_len for e in table.entries}) > 1 else []
    return charts + _memory(table) + _ratios(table)


def _ratios(table: ReportTable) -> list[Markup]:
    """Every ratio that means anything, with its interval."""
    found = [item for entry in table.entries for item in entry.against] + table.compared
    marks = []
    for item in found:
        if item.ratio is not None and not item.forced:
            low, high = item.ratio.ci95 or (item.ratio.value, item.ratio.value)
            label = f"{item.a.label} / {item.b.label}"
            marks.append(svg.RatioMark(label, item.ratio.value, low, high))
    return [svg.ratios(f"{table.model}: ratio of TGS, 95 % interval", marks)] if marks else []


def longest(tables: Sequence[ReportTable]) -> list[Markup]:
    """The longest published sequence that trained, by model and system; only where systems differ in it."""
    found = {table.model: _longest(table) for table in tables}
    names = list(dict.fromkeys(name for table in tables for name in map(brand, table.systems)))
    if all(len(set(lengths.values())) < 2 for lengths in found.values()):
        return []
    groups = [
        svg.Group(model, [svg.Bar(names.index(s), float(n), units.length(n)) for s, n in lengths.items()])
        for model, lengths in found.items()
        if lengths
    ]
    return [svg.bars("Longest published sequence that trained", names, groups)]


def _picks(table: ReportTable) -> dict[str, _Pick]:
    """Series name -> how it finds its row in an entry; a series keeps its colour in every chart."""
    found: dict[str, _Pick] = {
        brand(system): (lambda e, s=system: e.published.get(s))  # type: ignore[misc]
        for system in table.systems
    }
    found[_FORECAST] = lambda e: e.forecast
    found[_MEASURED] = lambda e: e.measured
    return {n: pick for n, pick in found.items() if any(pick(e) is not None for e in table.entries)}


def _any_tgs(table: ReportTable, picks: dict[str, _Pick]) -> bool:
    rows = [pick(entry) for entry in table.entries for pick in picks.values()]
    return any(row is not None and row.tgs for row in rows)


def _tgs_bars(table: ReportTable, picks: dict[str, _Pick]) -> Markup:
    groups = []
    for entry in table.entries:
        rows = [(index, pick(entry)) for index, pick in enumerate(picks.values())]
        bars = [_bar(index, row) for index, row in rows if row is not None]
        groups.append(svg.Group(_group_label(entry, table), bars))
    return svg.bars(f"{table.model}: TGS, tokens per GPU per second", list(picks), groups)


def _group_label(entry: ReportEntry, table: ReportTable) -> str:
    """Length, and what tells the entry from the table's others: GPUs, engine, the run itself."""
    label = _setting(entry, table)
    if [_setting(other, table) for other in table.entries].count(label) == 1:
        return label
    return f"{label} {_short(entry.label)}"


def _setting(entry: ReportEntry, table: ReportTable) -> str:
    label = units.length(entry.seq_len)
    several = len({(e.num_gpus, e.gpu) for e in table.entries}) > 1
    engine = f" {entry.measured.system}" if entry.measured else ""
    return f"{label} x {entry.num_gpus}{engine}" if several else label + engine


def _short(name: str) -> str:
    """The end of a long run's name: names begin with the time and end with what is unique."""
    return name if len(name) <= 14 else f"…{name[-13:]}"


def _bar(series: int, row: Row) -> svg.Bar:
    if row.status == "oom" or not row.tgs:
        return svg.Bar(series, None, "out of memory" if row.status == "oom" else no_figure(row))
    text = figure_text(row.tgs, row)
    return svg.Bar(series, row.tgs, text, tip=f"{row.label}: {text} tokens/GPU/s", low_high=row.interval)


def _scaling(table: ReportTable, picks: dict[str, _Pick]) -> Markup:
    series = []
    for colour, (name, pick) in enumerate(picks.items()):
        rows = [
            row for e in table.entries if (row := pick(e)) is not None and row.tgs and row.status != "oom"
        ]
        points = [(float(row.seq_len), row.tgs) for row in rows if row.tgs]
        spread = [row.interval or (row.tgs, row.tgs) for row in rows if row.tgs] if name == _FORECAST else []
        if points:
            series.append(svg.SvgSeries(name, colour, points, spread, joined=name != _MEASURED))
    return svg.lines(f"{table.model}: TGS over sequence length", series, _tick, "TGS, tokens/GPU/s")


def _memory(table: ReportTable) -> list[Markup]:
    """Memory of one GPU over length; resident memory of CPU ranks is another figure and stays out."""
    picks: dict[str, _Pick] = {_FORECAST: lambda e: e.forecast, _MEASURED: lambda e: e.measured}
    order = list(_picks(table))
    series = []
    for name, pick in picks.items():
        rows = [row for e in table.entries if (row := pick(e)) is not None and row.mem_kind == "cuda"]
        points = [(float(row.seq_len), row.mem_peak_gib) for row in rows if row.mem_peak_gib]
        if points:
            series.append(svg.SvgSeries(name, order.index(name), points, joined=name == _FORECAST))
    if sum(len(line.points) for line in series) < 2:
        return []
    gpus = {e.gpu for e in table.entries}
    gpu = find_gpu(next(iter(gpus))) if len(gpus) == 1 else None
    limit = (gpu.memory_gib, f"{gpu.name}: {gpu.memory_gib:.0f} GiB") if gpu else None
    title = f"{table.model}: memory of one GPU over sequence length"
    return [svg.lines(title, series, _tick, "GiB at the peak of a step", limit, log_y=False)]


def _longest(table: ReportTable) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for entry in table.entries:
        for system, row in entry.published.items():
            if row.status == "ok":
                lengths[brand(system)] = max(lengths.get(brand(system), 0), row.seq_len)
    return lengths


def _tick(value: float) -> str:
    return f"{value:,.10g}"
