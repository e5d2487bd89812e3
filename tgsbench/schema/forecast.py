"""A forecast of one preset on one machine: does it fit, how fast will it be, what should change."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Verdict = Literal["fits", "tight", "out of memory", "unknown"]


class TgsRange(Struct, frozen=True, kw_only=True):
    """Estimated tokens per GPU per second and its error bar."""

    estimate: float = field(name="predicted")
    low: float
    high: float


class PlannedMemory(Struct, frozen=True, kw_only=True):
    """GiB of one GPU at the peak of the step; the items add up to `total_gib`."""

    total_gib: float
    items: dict[str, float]
    at: str
    """The moment of the step that holds most."""
    moments: dict[str, float]
    """GiB at every moment looked at."""
    tensors_gib: float
    """Live tensors alone, without context, NCCL and allocator: what torch calls allocated."""
    card_gib: float | None = None
    host_gib: float = 0.0
    """Host memory of one node for what is offloaded."""


class TermSource(Struct, frozen=True, kw_only=True):
    """Where one number of a forecast comes from."""

    formula: str
    constant: str = ""
    source: str = ""


class Cost(Struct, frozen=True, kw_only=True):
    """What a billion tokens take, at the planned or measured TGS."""

    gpu_hours: float
    usd: float | None = None
    """None: no price is said."""
    usd_per_gpu_hour: float | None = None
    kwh: float | None = None
    """Energy of the GPUs, from their power as NVML measured it; None: not measured."""


class Advice(Struct, frozen=True, kw_only=True):
    """One change, and what it would do."""

    change: list[str]
    """Assignments for --set."""
    why: str
    tgs: float | None = None
    tgs_ratio: float | None = None
    total_gib: float = 0.0
    verdict: Verdict = "unknown"


class Forecast(Struct, frozen=True, kw_only=True):
    """Everything the planner says about one preset."""

    schema_version: int = 1
    preset: str
    gpu: str
    link: str
    num_gpus: int
    dp: int
    sp: int
    sharing: str = ""
    """Ring, copies, ZeRO stage below 3 and bf16 sums of gradients, in words."""
    seq_len: int
    engine: str
    kernel: str
    checkpointing: str
    tokens_per_step: int
    tgs: TgsRange | None = None
    """None: no constants were ever fitted for this hardware, or it goes out of memory."""
    step_s: float | None = None
    cost: Cost | None = None
    time: dict[str, float] = {}
    """Seconds of an optimizer step by item; they add up to step_s."""
    hidden: dict[str, float] = {}
    """Seconds of communication that goes on beside work, by kind; no part of step_s."""
    tflops: dict[str, float] = {}
    mfu: float | None = None
    memory: PlannedMemory
    verdict: Verdict
    reason: str = ""
    """Why the verdict, with the item that there is most to save on."""
    advice: list[Advice] = []
    error_bar: str = ""
    """What the error bar is made of."""
    terms: dict[str, TermSource] = field(default_factory=dict)
    notes: list[str] = []
