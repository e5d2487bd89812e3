"""A report as Markdown and as CSV; strings from files cannot break out of a cell."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from tgsbench.models.flops import XTUNER
from tgsbench.report.columns import columns_of
from tgsbench.report.document import Report, ReportEntry, ReportTable, date_text, finding_text, findings
from tgsbench.results.rows import Row, model_mfu

_ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Inside a word an underscore is no emphasis."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def markdown(report: Report) -> str:
    """Tables, comparisons, run summaries and definitions as GitHub Markdown."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: Report) -> Iterator[str]:
    yield f"# {_md(report.title)}"
    if date := date_text(report.made_unix):
        yield from ("", f"Made {date}.")
    for table in report.tables:
        yield from ("", f"## {_md(table.model)}", "", *_md_table(table))
    for title, items in findings(report):
        yield from ("", f"## {title}", "", *(f"- {_md(finding_text(item))}" for item in items))
    for section in report.runs:
        yield from (
            "",
            f"## Run {_md(section.name)}",
            "",
            *(f"    {_one_line(line)}" for line in section.lines),
        )
        if section.hotspots:
            yield from ("", "Shares of the step:", "")
            yield from (f"- {_md(name)}: {100 * share:.1f} %" for name, share in section.hotspots.items())
        yield from ("", "Environment:", "")
        yield from (f"- {_md(name)}: {_md(text)}" for name, text in section.environment.items())
    yield from ("", "## What each figure means", "")
    yield from (f"- {_md(name)}: {_md(text)}" for name, text in report.conventions.items())
    for heading, texts in (("Sources", report.sources), ("Notes", report.notes)):
        if texts:
            yield from ("", f"## {heading}", "", *(f"- {_md(text)}" for text in texts))


def _md_table(table: ReportTable) -> Iterator[str]:
    columns = columns_of(table)
    yield markdown_row([column.title for column in columns])
    yield markdown_row(["---", "---", *["---:"] * (len(columns) - 2)], raw=True)
    for entry in table.entries:
        yield markdown_row([column.cell(entry) for column in columns])


def markdown_row(cells: Sequence[str], raw: bool = False) -> str:
    """One line of a table; unless `raw`, nothing in a cell is taken for Markdown."""
    return "| " + " | ".join(cell if raw else _md(cell) for cell in cells) + " |"


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _UNDERSCORE.sub(r"\\_", _one_line(text).translate(_ESCAPED))


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\r", " ")


# --- CSV ------------------------------------------------------------------------------------------

_FIELDS = (
    "config", "model", "gpu", "num_gpus", "seq_len", "sp", "kind", "system", "label", "status", "tgs",
    "tgs_low", "tgs_high", "n", "tflops_xtuner", "tflops_model", "mfu", "mem_gib", "document_mask",
    "checkpointing", "source", "versions", "integrity", "disturbed", "gpu_hours_per_1b_tokens",
    "usd_per_1b_tokens", "kwh_per_1b_tokens", "linear", "mfu_bf16",
)  # fmt: skip


def csv_text(report: Report) -> str:
    """One line for each published, predicted and measured row, figures unrounded."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_FIELDS)
    for table in report.tables:
        for entry in table.entries:
            rows = [*entry.published.values(), entry.forecast, entry.measured]
            writer.writerows(_csv_row(entry, row) for row in rows if row is not None)
    return sink.getvalue()


def _csv_row(entry: ReportEntry, row: Row) -> list[object]:
    low, high = row.interval or (None, None)
    cells: list[object] = [
        entry.config, entry.model.name, row.gpu, row.num_gpus, row.seq_len, row.sp, row.kind, row.system,
        row.label, row.status, row.tgs, low, high, len(row.samples) or None, row.tflops.get(XTUNER),
        row.tflops.get("model"), model_mfu(row, entry.model), row.mem_peak_gib, row.document_mask,
        row.checkpointing, row.source, _versions(row), row.integrity, "; ".join(row.disturbances[-1:]),
        *((row.cost.gpu_hours, row.cost.usd, row.cost.kwh) if row.cost else (None, None, None)),
        row.linear, row.mfu_bf16,
    ]  # fmt: skip
    return [_csv_cell(cell) for cell in cells]


def _versions(row: Row) -> str:
    return " ".join(f"{name}={version}" for name, version in sorted(row.versions.items()))


def _csv_cell(cell: object) -> object:
    """A string that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS):
        return f"'{cell}"
    return cell
