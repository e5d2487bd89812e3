"""What the run list and the comparison show, as plain values; no widgets here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from rich.text import Text

from tgsbench import units
from tgsbench.errors import TgsError
from tgsbench.results import results
from tgsbench.results.compare import Comparison, compare, from_result
from tgsbench.results.rows import Row
from tgsbench.schema.run import Failure, Manifest, Result
from tgsbench.store.run_dir import RunDir
from tgsbench.tui.live_text import VERDICT_MARKS, status_text
from tgsbench.tui.widgets import table


@dataclass(frozen=True)
class RunRow:
    """One run of the list."""

    run: RunDir
    status: str
    preset: str = ""
    engine: str = ""
    tgs: float | None = None
    seq_len: int = 0
    world: int = 0
    created_unix: float = 0.0
    is_rehearsal: bool = False
    reason: str = ""
    """Why it did not end well, in one line."""

    @property
    def words(self) -> str:
        """What a filter looks through."""
        length = units.length(self.seq_len) if self.seq_len else ""
        rehearsal = "rehearsal" if self.is_rehearsal else ""
        return f"{self.run.run_id} {self.status} {self.preset} {self.engine} {length} {rehearsal}".lower()


def read_row(run: RunDir) -> RunRow:
    """One run as the list shows it; whatever is wrong with its folder becomes its reason."""
    try:
        stored = run.result()
        if stored is None and results.is_running(run):
            return _running(run, run.manifest())
        described = stored or results.load_or_describe(run)
    except TgsError as error:
        return RunRow(run, "damaged", reason=error.msg)
    except Exception as error:  # noqa: BLE001 - the list goes on, whatever one folder holds
        return RunRow(run, "damaged", reason=f"{run.path}: {error}")
    if isinstance(described, Failure):
        return RunRow(run, "damaged", reason=described.reason)
    return _ended(run, described)


def _running(run: RunDir, manifest: Manifest) -> RunRow:
    return RunRow(
        run, "running", manifest.preset, manifest.engine, world=manifest.world_size,
        created_unix=manifest.created_unix, is_rehearsal=bool(manifest.rehearsal_of),
    )  # fmt: skip


def _ended(run: RunDir, result: Result) -> RunRow:
    return RunRow(
        run,
        result.status,
        result.preset,
        result.engine,
        result.tgs.median,
        result.seq_len,
        result.world_size,
        result.created_unix,
        bool(result.rehearsal_of),
        result.failure.reason if result.failure else "; ".join(result.integrity.problems[:1]),
    )


def matching(rows: Sequence[RunRow], query: str) -> list[RunRow]:
    """Rows that contain every word of the query."""
    words = query.lower().split()
    return [row for row in rows if all(word in row.words for word in words)]


def table_rows(rows: Sequence[RunRow], marked: Sequence[str]) -> list[table.Row]:
    """Rows of the run list; a mark says its number among the marked ones."""
    return [(str(row.run.path), _cells(row, marked)) for row in rows]


def _cells(row: RunRow, marked: Sequence[str]) -> tuple[str | Text, ...]:
    key = str(row.run.path)
    mark = f"[{marked.index(key) + 1}]" if key in marked else ""
    when = datetime.fromtimestamp(row.created_unix).strftime("%m-%d %H:%M") if row.created_unix else ""
    preset = row.preset + (" (rehearsal)" if row.is_rehearsal else "")
    return (
        Text(mark, "bold"),
        Text(status_text(row.status)),
        Text(preset or row.run.run_id),
        Text(("-" if row.tgs is None else units.rate(row.tgs)).rjust(9)),
        Text((units.length(row.seq_len) if row.seq_len else "").rjust(6)),
        when,
        Text(row.engine),
        Text((str(row.world) if row.world else "").rjust(5)),
        Text(row.run.run_id),
        Text(row.reason),
    )


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
    interval = f" ({units.rate(row.ci95[0])} to {units.rate(row.ci95[1])})" if row.ci95 else ""
    return units.rate(row.tgs) + interval


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
    ("dtype", lambda r: _or_dash(r.dtype)),
    ("corpus", lambda r: _or_dash(r.corpus)),
    ("TFLOPs xtuner", lambda r: units.rate(r.tflops["xtuner"]) if "xtuner" in r.tflops else "-"),
    ("TFLOPs model", lambda r: units.rate(r.tflops["model"]) if "model" in r.tflops else "-"),
    ("MFU", lambda r: "-" if r.mfu is None else units.percent(r.mfu)),
    ("peak memory", lambda r: "-" if r.mem_peak_gib is None else f"{r.mem_peak_gib:.2f} GiB {r.mem_kind}"),
    ("steps", lambda r: _or_dash(len(r.samples))),
)
