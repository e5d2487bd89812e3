"""A run as series: one row an optimizer step, and the run's settings; what every format is made of."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tgsbench.metrics import figures
from tgsbench.metrics.integrity import integrity_text
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


class NamedFigure(Struct, frozen=True, kw_only=True):
    """One figure of a whole run, and which one it is of its steps'."""

    statistic: str
    """median, low95 and high95 (interval of the median), max, first, last, total, n."""
    name: str
    value: float

    @property
    def tag(self) -> str:
        """Its name beside those of steps: of a median alone, of others with the statistic."""
        return self.name if self.statistic == "median" else f"{self.statistic}.{self.name}"

    @property
    def full_name(self) -> str:
        """Its name with the statistic."""
        return f"{self.statistic}.{self.name}"


class Series(Struct, frozen=True, kw_only=True):
    """One run."""

    result: Result
    settings: dict[str, bool | int | float | str]
    """What was chosen: the hyperparameters of trackers."""
    facts: dict[str, str]
    """What it ran on and whether to believe it: GPU, versions, integrity, what disturbed it."""
    figures: list[NamedFigure]
    """What came out of the measured steps."""
    steps: list[ExportRow]


def series_of(run: RunDir) -> Series:
    """Read a run's events and result."""
    result, preset = results.load_result(run), run.preset()
    observed = fold_events(run.events(), run.manifest().world_size)
    return Series(
        result=result,
        settings=_settings(result, preset),
        facts=_facts(result),
        figures=_figures(result),
        steps=_steps(observed, preset, result),
    )


def flat_rows(series: Series) -> list[dict[str, Any]]:
    """One flat row a step, all of the run in each: a table that needs no join.

    A run without a step has one row without one, so that what failed is seen.
    """
    head: dict[str, Any] = {
        "run_id": series.result.run_id,
        "status": series.result.status,
        **series.settings,
        **series.facts,
    }
    head |= {f"run.{figure.full_name}": figure.value for figure in series.figures}
    if not series.steps:
        return [{**head, "step": None, "phase": None, "unix_t": series.result.created_unix}]
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
        "linear": result.linear,
        "corpus": result.corpus,
        "rehearsal_of": result.rehearsal_of,
    }


def _facts(result: Result) -> dict[str, str]:
    env = result.environment
    found = {
        "gpu": result.device,
        "hosts": ",".join(result.hosts),
        "integrity": integrity_text(result.integrity),
        "disturbed": result.disturbances[-1] if result.disturbances else "",
        "failure": result.failure.reason if result.failure else "",
        "changed": " ".join(result.changed),
        "repeat_of": result.repeat_of,
        "version.tgsbench": env.tgsbench or "",
    }
    return found | {f"version.{name}": version for name, version in env.software.items()}


def _figures(result: Result) -> list[NamedFigure]:
    tgs, mem = result.tgs, result.mem
    low, high = tgs.ci95 or (None, None)
    found: list[tuple[str, str, float | None]] = [
        ("median", "tgs", tgs.median),
        ("low95", "tgs", low),
        ("high95", "tgs", high),
        ("n", "tgs", float(tgs.n)),
        ("total", "tgs", tgs.total),
        ("median", "step_s", result.step_s.median),
        ("max", "mem_peak_gib", mem.peak_gib),
        ("median", "mfu", result.mfu),
        ("first", "loss", result.loss.first),
        ("last", "loss", result.loss.last),
        *(("median", f"tflops_{name}", value) for name, value in result.tflops.items()),
    ]
    return [NamedFigure(statistic=s, name=name, value=value) for s, name, value in found if value is not None]
