"""Columns of a report's tables: published, predicted and measured figures side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tgsbench import units
from tgsbench.report.comparison import (
    figure_text,
    gpu_hours_text,
    interval_text,
    kwh_text,
    no_figure,
    own_text,
    start_up_text,
    system_text,
    tflops_text,
    usd_text,
)
from tgsbench.report.document import ReportEntry, ReportTable, brand
from tgsbench.report.forecast import mfu_text
from tgsbench.results.rows import Row, model_mfu


class Column(NamedTuple):
    """One column: its title and what it shows of a row."""

    title: str
    cell: Callable[[ReportEntry], str]


def columns_of(table: ReportTable) -> list[Column]:
    """Columns that have something to say for at least one row of the table."""
    columns = [Column("config", _config), Column("GPUs", _gpus), Column("length", _length)]
    columns.append(Column("sp", lambda e: str(e.sp)))
    for system in table.systems:
        columns += _published(system)
    columns += [Column("predicted TGS", lambda e: _tgs(e.forecast))]
    columns += [Column("predicted range", lambda e: _interval(e.forecast))]
    columns += [Column("predicted memory", lambda e: _memory(e.forecast))]
    columns += [Column("predicted USD/1B tokens", lambda e: usd_text(e.forecast) if e.forecast else "")]
    columns += _MEASURED
    always = {"config", "GPUs", "length", "sp"}
    return [c for c in columns if c.title in always or any(c.cell(entry) for entry in table.entries)]


def _published(system: str) -> list[Column]:
    name = brand(system)

    def row(entry: ReportEntry) -> Row | None:
        return entry.published.get(system)

    return [
        Column(f"{name} TGS", lambda e: _tgs(row(e))),
        Column(f"{name} TFLOPs", lambda e: _tflops(row(e))),
        Column(f"{name} MFU (model)", lambda e: _mfu(row(e), e)),
    ]


def _verdicts(entry: ReportEntry) -> str:
    found = []
    for item in entry.against:
        ratio = f" {item.ratio.value:.3f}x" if item.ratio is not None else ""
        found.append(f"{brand(item.b.system)}: {item.verdict}{ratio}")
    return "; ".join(found)


_MEASURED = [
    Column("engine", lambda e: system_text(e.measured) if e.measured else ""),
    Column("measured TGS", lambda e: _tgs(e.measured)),
    Column("95 % interval", lambda e: _interval(e.measured)),
    Column("TFLOPs", lambda e: _tflops(e.measured)),
    Column("MFU (model)", lambda e: _mfu(e.measured, e)),
    Column("memory", lambda e: _memory(e.measured)),
    Column("own figure", lambda e: own_text(e.measured) if e.measured else ""),
    Column("start-up", lambda e: start_up_text(e.measured) if e.measured else ""),
    Column("config lines", lambda e: str((e.measured and e.measured.config_lines) or "")),
    Column("GPU-hours/1B tokens", lambda e: gpu_hours_text(e.measured) if e.measured else ""),
    Column("USD/1B tokens", lambda e: usd_text(e.measured) if e.measured else ""),
    Column("kWh/1B tokens", lambda e: kwh_text(e.measured) if e.measured else ""),
    Column("against published", _verdicts),
    Column("run", lambda e: _run(e.measured)),
]


def _run(row: Row | None) -> str:
    if row is None:
        return ""
    marks = ["disturbed machine"] * bool(row.disturbances) + ["damaged event files"] * bool(row.damaged)
    return f"{row.label} ({', '.join(marks)})" if marks else row.label


def _config(entry: ReportEntry) -> str:
    return f"{entry.config} (rehearsal)" if entry.rehearsal_of else entry.config


def _gpus(entry: ReportEntry) -> str:
    return f"{entry.num_gpus} x {entry.gpu}"


def _length(entry: ReportEntry) -> str:
    return units.length(entry.seq_len)


def _tgs(row: Row | None) -> str:
    if row is None:
        return ""
    if row.status == "oom":
        return "OOM"
    return figure_text(row.tgs, row) if row.tgs else (no_figure(row) if row.kind != "predicted" else "")


def _interval(row: Row | None) -> str:
    return "" if row is None or row.status == "oom" else interval_text(row.interval)


def _tflops(row: Row | None) -> str:
    return "" if row is None else tflops_text(row)


def _mfu(row: Row | None, entry: ReportEntry) -> str:
    return "" if row is None else mfu_text(model_mfu(row, entry.model), row.mfu_bf16, 1)


def _memory(row: Row | None) -> str:
    if row is None or not row.mem_peak_gib:
        return ""
    resident = " resident" if row.mem_kind == "rss" else ""
    return f"{row.mem_peak_gib:.1f} GiB{resident}"
