"""Runs and published rows -> a report; reads the store, writes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner import forecast_preset
from tgsbench.planner.machine import CPU
from tgsbench.report.document import (
    Report,
    ReportEntry,
    RunSection,
    brand,
    conventions,
    date_text,
    tables_of,
    with_comparisons,
)
from tgsbench.report.summary import summary_lines
from tgsbench.results import results, row_specs, rows
from tgsbench.results.compare import Comparison
from tgsbench.results.rows import Row
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.hotspots import TITLES
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import XTUNER
from tgsbench.schema.run import Result
from tgsbench.store import profiles
from tgsbench.store.run_dir import RunDir
from tgsbench.systems.registry import DEFAULT

_FOREIGN = "imported"


def of_words(root: Path, words: Sequence[str], title: str = "", price: float | None = None) -> Report:
    """A report on runs, presets, published and imported rows, as `compare` names them.

    `price`, USD for an hour of one GPU, replaces that of the hardware files. Raises TgsError naming what
    would have been known.
    """
    source = row_specs.RowFinder(root)
    found = [row for word in words for row in source.resolve(word)]
    sections, entries = [], []
    first: dict[tuple[object, ...], Row] = {}
    for row in found:
        first.setdefault(_key(row), row)
    for item in first.values():
        entries.append(_priced(_entry(item), price))
        if item.kind == "run":
            sections.append(section(RunDir(Path(item.source)), price))
    named = ", ".join(words) if len(words) <= 3 else f"{len(words)} rows"
    return _report(title or f"Long-sequence training speed: {named}", entries, sections)


def side_by_side(
    measured: Sequence[Row], compared: Sequence[Comparison], preset: Preset, notes: Sequence[str]
) -> Report:
    """A report on engines that ran one preset in turns, in their order; those that failed are rows too."""
    entries = [
        ReportEntry(
            config=preset.name,
            model=preset.model,
            gpu=row.gpu or preset.hardware.gpu or preset.hardware.device,
            num_gpus=preset.world_size,
            seq_len=preset.workload.seq_len,
            sp=preset.parallel.sp,
            measured=row,
        )
        for row in measured
    ]
    sections = [section(RunDir(Path(row.source))) for row in measured if row.source]
    report = _report(f"Training engines on equal work: {preset.name}", entries, sections)
    (table,) = report.tables
    table.entries, table.compared = entries, list(compared)
    return msgspec.structs.replace(report, notes=[*notes, *report.notes])


def published() -> Report:
    """The published rows alone: XTuner against LLaMA-Factory, with the planner's forecasts beside them."""
    references = presets.load_references()
    entries = [
        _of_preset(presets.resolve(name).preset)
        for name in presets.list_presets()
        if any(row.system == XTUNER for row in references.get(name, ()))
    ]
    title = "Published training speed on long sequences: XTuner against LLaMA-Factory"
    return _report(title, entries, [])


def _priced(entry: ReportEntry, price: float | None) -> ReportEntry:
    """The entry's rows at another price than that of their hardware files."""
    if price is None:
        return entry
    forecast, measured = (row and rows.priced(row, price) for row in (entry.forecast, entry.measured))
    published = {name: rows.priced(row, price) for name, row in entry.published.items()}
    return msgspec.structs.replace(entry, forecast=forecast, measured=measured, published=published)


def section(run: RunDir, price: float | None = None) -> RunSection:
    """What is said of one run alone."""
    result = results.load_result(run)
    hotspots, findings = _hotspots(run)
    return RunSection(
        name=run.run_id,
        status=result.status,
        lines=summary_lines(result, price),
        environment=environment_facts(result),
        step_tgs=list(result.tgs.samples),
        mem_by_rank_gib=result.mem.by_rank_gib,
        mem_kind=result.mem.kind,
        tflops=dict(result.tflops),
        claimed={name: str(value) for name, value in (result.claimed or {}).items()},
        hotspots=hotspots,
        findings=findings,
    )


def environment_facts(result: Result) -> dict[str, str]:
    """Hardware and software that a run was made on, for people."""
    env = result.environment
    facts = {
        "measured": date_text(result.created_unix),
        "GPUs": _counted(env.gpus or []) if result.device != "cpu" else "",
        "ranks": f"{result.world_size} (dp {result.dp} x sp {result.sp})",
        "machines": ", ".join(result.hosts),
        "CPU": f"{env.cpu or ''}, {_known(env.num_cores)} cores",
        "memory": f"{_known(env.memory_gib)} GiB",
        "platform": env.platform or "",
        "Python": env.python or "",
        "tgsbench": env.tgsbench or "",
        "attention": result.attention,
    }
    facts |= {name: version for name, version in env.software.items() if name != "python"}
    return {name: value for name, value in facts.items() if value}


def _key(row: Row) -> tuple[str, ...]:
    """A table has one row of a measurement, and one of a preset with all that was published for it."""
    if row.kind in ("published", "predicted"):
        return "preset", row.preset
    return row.kind, row.label, row.source


def _entry(row: Row) -> ReportEntry:
    """The table row that a comparison row belongs to."""
    if row.kind == "run":
        return _of_run(row)
    if row.kind == "foreign":
        return _of_foreign(row)
    return _of_preset(presets.resolve(row.preset).preset)


def _of_preset(preset: Preset) -> ReportEntry:
    return ReportEntry(
        config=preset.name,
        model=preset.model,
        gpu=preset.hardware.gpu or preset.hardware.device,
        num_gpus=preset.world_size,
        seq_len=preset.workload.seq_len,
        sp=preset.parallel.sp,
        published=_published(preset),
        forecast=_forecast(preset, None, ""),
    )


def _of_run(row: Row) -> ReportEntry:
    run = RunDir(Path(row.source))
    preset, result = run.preset(), results.load_result(run)
    entry = ReportEntry(
        config=preset.name,
        model=preset.model,
        gpu=row.gpu,
        num_gpus=row.num_gpus,
        seq_len=row.seq_len,
        sp=row.sp,
        rehearsal_of=row.rehearsal_of,
        published={} if row.rehearsal_of else _published(preset),
        forecast=_forecast(preset, result.forecast, result.device),
        measured=row,
    )
    return with_comparisons(entry)


def _of_foreign(row: Row) -> ReportEntry:
    """An imported row; its shape is known only by the model's name."""
    shapes = [presets.load_model(name) for name in presets.catalog.files("presets", "models")]
    model = next((shape for shape in shapes if shape.name == row.model), None)
    if model is None:
        raise TgsError(
            f"{row.label}: model {row.model!r} is none of presets/models", exit_code=ExitCode.BAD_INPUT
        )
    return ReportEntry(
        config=_FOREIGN,
        model=model,
        gpu=row.gpu,
        num_gpus=row.num_gpus,
        seq_len=row.seq_len,
        sp=row.sp,
        measured=row,
    )


def _published(preset: Preset) -> dict[str, Row]:
    found = presets.load_references().get(preset.name, [])
    return {row.system: rows.from_reference(row, preset) for row in found}


def _forecast(preset: Preset, stored: Forecast | None, device: str) -> Row | None:
    """The forecast kept with a run, or a new one for its GPU; None for hardware nobody described."""
    if stored is None:
        gpu = presets.find_gpu(device) if device else None
        try:
            stored = forecast_preset(preset, gpu.name if gpu else "")
        except TgsError:
            return None
    if stored.tgs is None and stored.gpu == CPU.name:
        return None
    return rows.from_forecast(preset, stored)


def _hotspots(run: RunDir) -> tuple[dict[str, float], list[str]]:
    profile = profiles.stored_profile(run)
    if profile is None:
        return {}, []
    shares = sorted(profile.shares.items(), key=lambda item: -item[1])
    named = {TITLES.get(name, name): share for name, share in shares if share > 0}
    return named, [finding.text for finding in profile.findings]


def _known(value: float | None) -> str:
    return "?" if value is None else str(value)


def _counted(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _report(title: str, entries: list[ReportEntry], sections: list[RunSection]) -> Report:
    tables = tables_of(entries)
    published_rows = [row for e in entries for row in e.published.values()]
    sources = list(
        dict.fromkeys(f"{brand(row.system)}, {row.preset}: {row.source}" for row in published_rows)
    )
    odd = [f"{row.label}: {row.reason}" for row in published_rows if row.reason and row.status == "ok"]
    notes = (
        [
            f"predicted: tgsbench plan, for engine {DEFAULT.name} (unless the run names another) and the"
            " datasheet's network; no forecast of the published systems, whose clusters' network is unknown"
        ]
        if any(e.forecast for e in entries)
        else []
    )
    return Report(
        title=title,
        made_unix=time.time(),
        tables=tables,
        runs=sections,
        conventions=conventions(),
        sources=sources,
        notes=notes + list(dict.fromkeys(odd)),
    )


def as_json(report: Report) -> bytes:
    """The report as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2)
