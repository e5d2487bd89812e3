"""A report as one self-contained HTML page: no script, no network, light and dark, phone and paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from tgsbench.metrics import stats
from tgsbench.report import svg
from tgsbench.report.charts import charts_of, longest
from tgsbench.report.columns import columns_of
from tgsbench.report.document import (
    Report,
    ReportEntry,
    ReportTable,
    RunSection,
    date_text,
    finding_text,
    findings,
)
from tgsbench.report.markup import join, tag
from tgsbench.report.page_style import STYLE
from tgsbench.safe_files import printable
from tgsbench.version import VERSION


def render(report: Report) -> str:
    """The whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing may be loaded and nothing may run, whatever a run folder holds.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("title", report.title),
        tag("style", Markup(STYLE)),
    )
    body = tag("body", tag("main", *_body(report)))
    return printable(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def _body(report: Report) -> list[Markup]:
    parts = [tag("h1", report.title), tag("p", _made(report), class_="muted")]
    parts += _findings(report)
    for table in report.tables:
        parts += [tag("h2", table.model, " ", tag("small", _parameters(table))), _table(table)]
        parts += _charts(charts_of(table))
    if compared := longest(report.tables):
        parts += [tag("h2", "How long a sequence"), *_charts(compared)]
    parts += [_run(section) for section in report.runs]
    parts += _definitions("What each figure means", report.conventions)
    parts += _list("Sources", report.sources) + _list("Notes", report.notes)
    return parts


def _made(report: Report) -> str:
    date = date_text(report.made_unix)
    return f"tgsbench {VERSION}" + (f", {date}" if date else "")


def _charts(charts: Sequence[Markup]) -> list[Markup]:
    return [tag("div", *charts, class_="charts")] if charts else []


def _findings(report: Report) -> list[Markup]:
    """Every comparison in a sentence."""
    parts = []
    for title, items in findings(report):
        parts += [tag("h2", title), tag("ul", *(tag("li", finding_text(item)) for item in items))]
    return parts


def _table(table: ReportTable) -> Markup:
    columns = columns_of(table)
    head = tag("tr", *(tag("th", column.title, scope="col") for column in columns))
    rows = [_row(entry, [column.cell for column in columns]) for entry in table.entries]
    shown = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("div", shown, class_="scroll", tabindex=0, role="region", aria_label=f"Table of {table.model}")


def _row(entry: ReportEntry, cells: Sequence[Callable[[ReportEntry], str]]) -> Markup:
    first, *rest = (cell(entry) for cell in cells)
    return tag("tr", tag("th", first, scope="row"), *(tag("td", text) for text in rest))


def _run(section: RunSection) -> Markup:
    summary = tag("pre", "\n".join(section.lines))
    charts = []
    if len(section.step_tgs) > 1:
        median = stats.median(section.step_tgs) or 0.0
        charts.append(svg.steps("TGS of each measured step", section.step_tgs, median, "tokens/GPU/s"))
    if section.hotspots:
        charts.append(svg.shares("Where a step's time goes", section.hotspots))
    if len(section.mem_by_rank_gib) > 1:
        what = "allocated at the peak" if section.mem_kind == "cuda" else "resident"
        groups = [
            svg.Group(f"rank {rank}", [svg.Bar(0, gib, f"{gib:.2f} GiB")])
            for rank, gib in enumerate(section.mem_by_rank_gib[:64])
        ]
        charts.append(svg.bars(f"Memory of each rank, {what}", [], groups))
    parts = [tag("h2", f"Run {section.name}"), summary]
    parts += _charts(charts)
    parts += [tag("ul", *(tag("li", text) for text in section.findings))] if section.findings else []
    parts += _definitions("Its own figures, as it claims them", section.claimed, level="h3")
    parts += _definitions("Hardware and software environment", section.environment, level="h3")
    return tag("section", *parts)


def _definitions(title: str, items: dict[str, str], level: str = "h2") -> list[Markup]:
    if not items:
        return []
    pairs = [join(tag("dt", name), tag("dd", text)) for name, text in items.items()]
    return [tag(level, title), tag("dl", *pairs)]


def _list(title: str, items: Sequence[str]) -> list[Markup]:
    return [tag("h2", title), tag("ul", *(tag("li", item) for item in items))] if items else []


def _parameters(table: ReportTable) -> str:
    billions = table.num_parameters / 1e9
    return f"{billions:.1f} B parameters" if billions >= 0.1 else f"{table.num_parameters:,} parameters"
