"""Runs, published rows, forecasts and foreign logs brought to the same fields."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

from tgsbench.metrics import figures
from tgsbench.metrics.integrity import integrity_text
from tgsbench.metrics.ratio import Interval
from tgsbench.models.spec import num_parameters
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.environment import Environment
from tgsbench.schema.forecast import Cost, Forecast
from tgsbench.schema.preset import ModelShape, Preset
from tgsbench.schema.reference import ReferenceRow
from tgsbench.schema.run import Result

Kind = Literal["run", "published", "predicted", "foreign"]

UNKNOWN = ""


class Row(Struct, frozen=True, kw_only=True):
    """One measurement, publication or forecast, in the fields that a comparison looks at.

    An empty string, 0 or None means that the source does not say.
    """

    label: str
    kind: Kind
    system: str
    """Engine, or the system that published."""
    preset: str = ""
    status: str = "ok"
    rehearsal_of: str = ""
    model: str = ""
    num_parameters: int = 0
    gpu: str = ""
    num_gpus: int = 0
    seq_len: int = 0
    sp: int = 0
    sharing: str = ""
    """Of a run or a plan: ring, copies, ZeRO stage below 3, sequence chunks, bf16 sums; empty: as usual."""
    document_mask: bool | None = None
    tokens_per_step: int = 0
    share_padded: float | None = None
    checkpointing: str = ""
    kernel: str = ""
    dtype: str = ""
    linear: str | None = None
    """Of a run or a plan, what products of projections run in, such as "FP8 rowwise"; empty: in `dtype`."""
    corpus: str = ""
    versions: dict[str, str] = {}
    tgs: float | None = None
    ci95: Interval | None = None
    range80: Interval | None = None
    """Of a plan: its 80 % interval."""
    samples: list[float] = []
    tflops: dict[str, float] = {}
    """By convention."""
    mfu: float | None = None
    """Over the peak of what `linear` runs in."""
    mfu_bf16: float | None = None
    """Beside it, over the bf16 peak, where `linear` is in FP8."""
    mem_peak_gib: float | None = None
    mem_kind: str = ""
    cost: Cost | None = None
    """Of a billion tokens; None without a TGS, and for a device that nobody rents by the hour."""
    power_w: float | None = None
    """Watts of one GPU as they were measured."""
    forecast: Forecast | None = field(default=None, name="prediction")
    """The planner's, which a run keeps, made before it."""
    source: str = ""
    reason: str = ""
    """Why there is no TGS."""
    integrity: str = ""
    """What the checks of a run said, in one line."""
    disturbances: list[str] = []
    """What else used a run's machine while it measured."""
    damaged: str = ""
    """What was passed over in a run's event files."""
    repeats: int = 1
    """Runs in fresh processes: of several, `samples` are the medians and `ci95` is of their spread."""
    remarks: list[str] = []
    """What a reader of its figure should know."""
    own_tgs: float | None = None
    """Another system's own figure for what `tgs` says."""
    own_basis: str = ""
    """What that is made of, where ours is made otherwise."""
    start_up_s: float | None = None
    """Seconds from the command to the first step."""
    config_lines: int = 0
    """Lines that a user of the system writes for the same work; 0: not counted."""
    unequal: list[str] = []
    """What the system does otherwise, whatever the preset asks."""

    @property
    def interval(self) -> Interval | None:
        """The interval of TGS: 95 % of what was measured, 80 % of what is planned."""
        return self.ci95 or self.range80


def from_result(result: Result, preset: Preset | None = None, label: str = "") -> Row:
    """The row of a run; `preset` (the run's own) adds the model where an older result lacks it."""
    model = result.model or (preset.model if preset else None)
    ci95 = result.tgs.ci95
    row = Row(
        label=label or result.run_id,
        kind="run",
        system=result.engine,
        preset=result.preset,
        status=result.status,
        rehearsal_of=result.rehearsal_of,
        model=model.name if model else UNKNOWN,
        num_parameters=num_parameters(model) if model else 0,
        gpu=_device_name(result.device, result.environment),
        num_gpus=result.world_size,
        seq_len=result.seq_len,
        sp=result.sp,
        sharing=result.sharing,
        document_mask=result.document_mask,
        tokens_per_step=result.tokens_per_step,
        share_padded=result.packing.share_padded,
        checkpointing=result.checkpointing,
        kernel=result.attention,
        dtype=result.compute_dtype or (preset.training.compute_dtype if preset else UNKNOWN),
        linear=result.linear,
        corpus=result.corpus,
        versions=dict(result.environment.software),
        tgs=result.tgs.median,
        ci95=(ci95[0], ci95[1]) if ci95 else None,
        samples=list(result.tgs.samples),
        tflops=dict(result.tflops),
        mfu=result.mfu,
        mfu_bf16=result.mfu_bf16,
        mem_peak_gib=result.mem.peak_gib,
        mem_kind=result.mem.kind,
        power_w=result.power_w,
        forecast=result.forecast,
        source=result.run_dir,
        reason=result.failure.reason if result.failure else "",
        integrity=integrity_text(result.integrity),
        disturbances=list(result.disturbances),
        damaged=result.integrity.damaged,
        own_tgs=result.claimed_tgs,
        own_basis=result.claimed_basis,
    )
    return priced(row)


def from_reference(row: ReferenceRow, preset: Preset, label: str = "") -> Row:
    """The row that somebody published for a preset."""
    found = Row(
        label=label or f"{row.system}:{preset.name}",
        kind="published",
        system=row.system,
        preset=preset.name,
        status=row.status,
        model=preset.model.name,
        num_parameters=num_parameters(preset.model),
        gpu=row.gpu,
        num_gpus=row.num_gpus,
        seq_len=row.seq_len,
        sp=row.sp,
        document_mask=row.document_mask,
        checkpointing=row.checkpointing,
        dtype=preset.training.compute_dtype,
        linear="",
        tgs=row.tgs,
        tflops={row.tflops_convention: row.tflops} if row.tflops and row.tflops_convention else {},
        source=row.source,
        reason="out of memory" if row.status == "oom" else row.note,
    )
    return priced(msgspec.structs.replace(found, mfu=model_mfu(found, preset.model)))


def from_forecast(preset: Preset, forecast: Forecast, label: str = "") -> Row:
    """The row that the planner forecasts for a preset."""
    tgs = forecast.tgs
    row = Row(
        label=label or f"predicted:{preset.name}",
        kind="predicted",
        system="planner",
        preset=preset.name,
        model=preset.model.name,
        num_parameters=num_parameters(preset.model),
        gpu=forecast.gpu or preset.hardware.gpu or preset.hardware.device,
        num_gpus=preset.world_size,
        seq_len=preset.workload.seq_len,
        sp=preset.parallel.sp,
        sharing=preset.sharing,
        document_mask=preset.workload.document_mask,
        tokens_per_step=preset.tokens_per_step,
        share_padded=0.0,
        checkpointing=preset.training.checkpointing,
        dtype=preset.training.compute_dtype,
        linear=preset.linear,
        tgs=tgs.estimate if tgs else None,
        range80=(tgs.low, tgs.high) if tgs and tgs.low and tgs.high else None,
        tflops=dict(forecast.tflops),
        mfu=forecast.mfu,
        mfu_bf16=forecast.mfu_bf16,
        mem_peak_gib=forecast.memory.total_gib,
        mem_kind="cuda",
        source="tgsbench plan",
        status="oom" if forecast.verdict == "out of memory" else "ok",
        reason=forecast.reason,
    )
    return priced(row)


def priced(row: Row, usd_per_gpu_hour: float | None = None) -> Row:
    """The row with what a billion tokens cost, at this price or that of its GPU's hardware file."""
    gpu = find_gpu(row.gpu) if row.gpu else None
    if not row.tgs or (gpu is None and usd_per_gpu_hour is None):
        return row
    price = usd_per_gpu_hour if usd_per_gpu_hour is not None else gpu.price_usd_per_hour if gpu else 0.0
    return msgspec.structs.replace(row, cost=figures.cost_of(row.tgs, price, row.power_w))


def _device_name(device: str, environment: Environment) -> str:
    """Key of presets/hardware where the driver's name is known; a CPU by its model."""
    if device == "cpu":
        return f"CPU {environment.cpu or ''}".strip()
    gpu = find_gpu(device)
    return gpu.name if gpu else device


def model_mfu(row: Row, model: ModelShape) -> float | None:
    """MFU of any row in the `model` convention, from its TGS alone; None without a known GPU peak.

    With a document mask the attended length is not known from the row, so there is none either.
    """
    if row.mfu is not None:
        return row.mfu
    gpu = find_gpu(row.gpu) if row.gpu else None
    if row.tgs is None or gpu is None or row.document_mask:
        return None
    return figures.mfu(
        figures.tflops_in("model", model, float(row.seq_len), "none", row.tgs), gpu, row.linear or ""
    )
