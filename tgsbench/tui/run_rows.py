"""What the run list and the comparison show, as plain values; no widgets here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from rich.text import Text

from tgsbench import units
from tgsbench.errors import TgsError
from tgsbench.models.flops import XTUNER
from tgsbench.report.comparison import figure_text, interval_of
from tgsbench.report.forecast import mfu_text
from tgsbench.results import results, run_columns
from tgsbench.results.compare import Comparison, compare, from_result
from tgsbench.results.index import Summary
from tgsbench.results.rows import Row
from tgsbench.results.run_columns import COLUMNS, RunColumn
from tgsbench.store.run_dir import RunDir
from tgsbench.tui.live_text import VERDICT_MARKS, status_text
from tgsbench.tui.widgets import table

_DECORATED: Final = {"status": status_text}
"""Columns whose text the terminal UI marks, so that it reads without colour."""


def list_columns() -> list[tuple[str, str, int]]:
    """Key, title and width of the list's columns, the marks first."""
    return [("mark", "", 3), *((name, COLUMNS[name].title, COLUMNS[name].width) for name in run_columns.LIST)]


def explained_columns() -> dict[str, str]:
    """Column of the list -> figure that `?` explains."""
    return {
        name: column.figure for name, column in COLUMNS.items() if column.figure and name in run_columns.LIST
    }


class RunRow(NamedTuple):
    """One run of the list with what a screen needs of it again and again."""

    run: Summary
    words: str
    """What a filter looks through."""
    cells: tuple[Text, ...]
    """Without the mark."""


def run_row(run: Summary) -> RunRow:
    """One run as the list shows it."""
    cells = ((name, COLUMNS[name]) for name in run_columns.LIST)
    return RunRow(run, _words(run), tuple(_cell(name, column, run) for name, column in cells))


def ordered(rows: Iterable[RunRow], order: str) -> list[RunRow]:
    """Rows in one of ORDERS; among equals the newest first, as `tgsbench runs` lists them."""
    newest = sorted(rows, key=lambda row: (row.run.created_unix, row.run.run_id), reverse=True)
    return sorted(newest, key=ORDERS[order]) if order != NEWEST else newest


NEWEST: Final = "newest first"
ORDERS: Final[dict[str, Callable[[RunRow], Any]]] = {
    NEWEST: lambda row: -row.run.created_unix,
    "fastest first": lambda row: -(row.run.tgs or 0.0),
    "by preset": lambda row: row.run.preset,
    "by status": lambda row: row.run.status,
}
"""What the list can be sorted by, in the order in which a key goes through them."""


def _words(run: Summary) -> str:
    length = units.length(run.seq_len) if run.seq_len else ""
    rehearsal = "rehearsal" if run.rehearsal_of else ""
    tags = " ".join(run.tags)
    return f"{run.run_id} {run.status} {run.preset} {run.engine} {length} {rehearsal} {tags}".lower()


def _cell(name: str, column: RunColumn, run: Summary) -> Text:
    text = _DECORATED.get(name, str)(column.text(run))
    return Text(text.rjust(column.width) if column.right else text)


def matching(rows: Sequence[RunRow], query: str) -> list[RunRow]:
    """Rows that contain every word of the query."""
    words = query.lower().split()
    return [row for row in rows if all(word in row.words for word in words)]


def table_rows(rows: Sequence[RunRow], marked: Sequence[str]) -> list[table.Row]:
    """Rows of the run list; a mark says its number among the marked ones."""
    marks = {name: Text(f"[{number}]", "bold") for number, name in enumerate(marked, 1)}
    return [(f"/{row.run.run_id}", (marks.get(row.run.run_id, _NO_MARK), *row.cells)) for row in rows]


_NO_MARK: Final = Text("", "bold")


def name_of(key: str) -> str:
    """Name of the run whose row has this key: after a slash, so that no name makes it a heading."""
    return key.removeprefix("/")


def details(run: Summary, folder: RunDir) -> Text:
    """Everything on one page: what ran where, its figures, why it failed, where it lies."""
    text = Text()
    for name, value in [*_known(run), *_measured(folder), ("folder", str(folder.path))]:
        text.append(f"{name:<15}", "bold").append(f"{value}\n")
    return text


def _known(run: Summary) -> list[tuple[str, str]]:
    """What the list knows of it."""
    shown = (
        ("run", run.run_id),
        ("status", status_text(run.status)),
        ("why", run.reason),
        ("preset", run.preset + (f" (rehearsal of {run.rehearsal_of})" if run.rehearsal_of else "")),
        ("tags", ", ".join(run.tags) or "none: T adds some"),
        ("when", COLUMNS["when"].text(run)),
    )
    return [(name, value) for name, value in shown if value]


def _measured(folder: RunDir) -> list[tuple[str, str]]:
    """What its result says, field by field as a comparison does; why not, where it cannot be read."""
    try:
        result = results.load_result(folder)
        row = from_result(result, folder.preset())
    except TgsError as error:
        return [("result", error.msg)]
    shown = [(what, show(row)) for what, show in _FIELDS if what not in ("status", "preset")]
    changed = [("changed", change) for change in result.changed]
    problems = [("integrity", problem) for problem in result.integrity.problems]
    warnings = [("warning", warning) for warning in result.warnings]
    return [*changed, *((what, value) for what, value in shown if value != "-"), *problems, *warnings]


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CompareTable:
    """Rows side by side against a base; `rows` are (what, one text per column, do they differ)."""

    columns: list[str]
    rows: list[tuple[str, list[str], bool]]
    comparisons: list[Comparison]
    """Every other row against the base."""
    base: int


def compare_table(rows: Sequence[Row], base: int) -> CompareTable:
    """Everything the rows say, the base first among equals, and each row's verdict against it."""
    comparisons = [compare(row, rows[base]) for row in rows]
    lines = [(what, [show(row) for row in rows]) for what, show in _FIELDS]
    table_lines = [(what, texts, len(set(texts)) > 1) for what, texts in lines]
    verdicts = [_verdict(c, index == base) for index, c in enumerate(comparisons)]
    ratios = [_ratio(c, index == base) for index, c in enumerate(comparisons)]
    head = [("verdict", verdicts, True), ("ratio", ratios, True)]
    others = [c for index, c in enumerate(comparisons) if index != base]
    return CompareTable([row.label for row in rows], head + table_lines, others, base)


def _verdict(comparison: Comparison, is_base: bool) -> str:
    if is_base:
        return "base"
    return f"{VERDICT_MARKS[comparison.verdict]} {comparison.verdict}"


def _ratio(comparison: Comparison, is_base: bool) -> str:
    ratio = comparison.ratio
    if is_base or ratio is None:
        return "1" if is_base else "-"
    interval = f" ({ratio.ci95[0]:.3f} to {ratio.ci95[1]:.3f})" if ratio.ci95 else ""
    return f"{ratio.value:.3f}×{interval}"


def notes(found: CompareTable) -> list[str]:
    """Why there is no ratio, and what to keep in mind, by row."""
    lines = []
    for comparison in found.comparisons:
        name = comparison.a.label
        lines += [f"{name}: not comparable: {reason}" for reason in comparison.reasons]
        lines += [
            f"{name}: {d.what} {d.a} against {d.b}{f': {d.why}' if d.why else ''}"
            for d in comparison.differences
            if not d.blocks
        ]
        lines += comparison.notes
    return list(dict.fromkeys(lines))


def comparison_row(run: RunDir) -> Row:
    """A run as a row of a comparison. Raises TgsError when it cannot be read."""
    return from_result(results.load_result(run), run.preset())


def markdown(found: CompareTable) -> str:
    """The comparison as a markdown table."""
    lines = [["", *found.columns], ["---"] * (len(found.columns) + 1)]
    lines += [[what, *texts] for what, texts, _ in found.rows]
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + "\n"


def as_json(found: CompareTable) -> str:
    """The comparisons against the base as JSON."""
    return msgspec.json.format(msgspec.json.encode(found.comparisons), indent=2).decode()


def _or_dash(value: object) -> str:
    return str(value) if value not in (None, "", 0) else "-"


def _tgs(row: Row) -> str:
    if row.tgs is None:
        return f"- ({row.reason or row.status})"
    interval = interval_of(row)
    return figure_text(row.tgs, row) + (f" ({interval})" if interval else "")


def _mask(row: Row) -> str:
    return {True: "per document", False: "whole pack", None: "-"}[row.document_mask]


_FIELDS = (
    ("TGS", _tgs),
    ("status", lambda r: status_text(r.status)),
    ("preset", lambda r: r.preset + (" (rehearsal)" if r.rehearsal_of else "")),
    ("engine", lambda r: r.system),
    ("model", lambda r: _or_dash(r.model)),
    ("GPU", lambda r: _or_dash(r.gpu)),
    ("GPUs", lambda r: _or_dash(r.num_gpus)),
    ("length", lambda r: units.length(r.seq_len) if r.seq_len else "-"),
    ("sp", lambda r: _or_dash(r.sp)),
    ("mask", _mask),
    ("tokens/step", lambda r: f"{r.tokens_per_step:,}" if r.tokens_per_step else "-"),
    ("padding", lambda r: "-" if r.share_padded is None else units.percent(r.share_padded)),
    ("checkpointing", lambda r: _or_dash(r.checkpointing)),
    ("attention", lambda r: _or_dash(r.kernel)),
    ("dtype", lambda r: _or_dash(f"{r.dtype}, {r.linear} products" if r.linear else r.dtype)),
    ("corpus", lambda r: _or_dash(r.corpus)),
    (f"TFLOPs {XTUNER}", lambda r: figure_text(r.tflops[XTUNER], r) if XTUNER in r.tflops else "-"),
    ("TFLOPs model", lambda r: figure_text(r.tflops["model"], r) if "model" in r.tflops else "-"),
    ("MFU", lambda r: mfu_text(r.mfu, r.mfu_bf16) or "-"),
    ("peak memory", lambda r: "-" if r.mem_peak_gib is None else f"{r.mem_peak_gib:.2f} GiB {r.mem_kind}"),
    ("steps", lambda r: _or_dash(len(r.samples))),
)
