"""A run as series: one row an optimizer step, and the run's settings; what every format is made of."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tgsbench.metrics import figures
from tgsbench.metrics.observe import RunTotals, fold_events
from tgsbench.metrics.result import attended_len
from tgsbench.metrics.step_total import StepTotal
from tgsbench.presets.catalog import find_gpu
from tgsbench.results import results
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result
from tgsbench.store.run_dir import RunDir
from tgsbench.units import GIB


class ExportRow(Struct, frozen=True, kw_only=True):
    """One optimizer step over all ranks."""

    step: int
    phase: str
    unix_t: float
    """End of the step by the wall clock of the run's start."""
    figures: dict[str, float]
    """tgs, step_s, loss, mem_peak_gib, tflops_NAME, mfu; what was not observed is left out."""


class Series(Struct, frozen=True, kw_only=True):
    """One run."""

    result: Result
    settings: dict[str, bool | int | float | str]
    """What was chosen: the hyperparameters of trackers."""
    figures: dict[str, float]
    """What came out: medians over the measured steps."""
    steps: list[ExportRow]


def series_of(run: RunDir) -> Series:
    """Read a run's events and result."""
    result, preset = results.load_result(run), run.preset()
    observed = fold_events(run.events(), run.manifest().world_size)
    return Series(
        result=result,
        settings=_settings(result, preset),
        figures=_figures(result),
        steps=_steps(observed, preset, result),
    )


def flat_rows(series: Series) -> list[dict[str, Any]]:
    """One flat row a step, the run's settings and status in each: a table that needs no join."""
    head = {"run_id": series.result.run_id, "status": series.result.status, **series.settings}
    return [
        {**head, "step": row.step, "phase": row.phase, "unix_t": row.unix_t, **row.figures}
        for row in series.steps
    ]


def _steps(observed: RunTotals, preset: Preset, result: Result) -> list[ExportRow]:
    length = attended_len(preset, observed.data)
    gpu = find_gpu(result.device)
    now_unix, rows = result.created_unix, []
    for phase in ("warmup", "measure", "profile"):
        for total in observed.complete(phase, result.world_size):
            now_unix += total.step_s
            found = _step_figures(total, preset, result.world_size, length)
            mfu = figures.mfu(found.get("tflops_model"), gpu)
            found |= {} if mfu is None else {"mfu": mfu}
            rows.append(ExportRow(step=total.step, phase=phase, unix_t=now_unix, figures=found))
    return rows


def _step_figures(total: StepTotal, preset: Preset, world_size: int, length: float) -> dict[str, float]:
    found = {"step_s": total.step_s, "mem_peak_gib": total.mem_peak / GIB}
    if total.loss is not None:
        found["loss"] = total.loss
    tgs = figures.tgs(total.tokens, world_size, total.step_s)
    if tgs is None:
        return found
    tflops = figures.tflops_by_convention(preset.model, length, preset.training.checkpointing, tgs)
    return {**found, "tgs": tgs, **{f"tflops_{name}": value for name, value in tflops.items()}}


def _settings(result: Result, preset: Preset) -> dict[str, bool | int | float | str]:
    return {
        "preset": result.preset,
        "engine": result.engine,
        "model": preset.model.name,
        "device": result.device,
        "world_size": result.world_size,
        "sp": result.sp,
        "dp": result.dp,
        "seq_len": result.seq_len,
        "micro_batch": result.micro_batch,
        "accumulation": result.accumulation,
        "checkpointing": result.checkpointing,
        "attention": result.attention,
        "document_mask": result.document_mask,
        "compute_dtype": result.compute_dtype,
        "corpus": result.corpus,
        "rehearsal_of": result.rehearsal_of,
    }


def _figures(result: Result) -> dict[str, float]:
    found = {
        "tgs": result.tgs.median,
        "tgs_total": result.tgs.total,
        "step_s": result.step_s.median,
        "mem_peak_gib": result.mem.peak_gib,
        "mfu": result.mfu,
        "loss": result.loss.last,
        **{f"tflops_{name}": value for name, value in result.tflops.items()},
    }
    return {name: value for name, value in found.items() if value is not None}
