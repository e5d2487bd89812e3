"""Peaks of GPUs and links from datasheets, and constants fitted on measurements, each with its source."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Fp8Recipe = Literal["rowwise", "tensorwise", "mxfp8"]
"""What shares a scale: a row along the sum, a whole tensor, or 32 values along the sum."""


class GpuSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU model's datasheet figures."""

    name: str
    matches: list[str]
    """Device names as the driver reports them, without the maker's; a name is matched whole."""
    compute_capability: str = ""
    """As CUDA writes it, such as "9.0"; empty: not known, so no virtual GPU can be one."""
    multiprocessors: int = 0
    bf16_tflops: float
    """Dense bf16 tensor-core peak."""
    fp8_tflops: float = 0.0
    """Dense FP8 tensor-core peak, sums in fp32; 0: it has none, or none is known."""
    fp8_recipes: list[Fp8Recipe] = []
    """Kinds of scaling whose products torch has for it."""
    gemm_ceiling_tflops: float = 0.0
    """Best bf16 product that a public sweep of shapes reached (mamf-finder); 0: none known."""
    memory_gib: float
    memory_gb_per_s: float
    nvlink_gb_per_s: float
    """One direction, per GPU, inside a node."""
    inter_node_gb_per_s: float
    """One direction, per GPU, between nodes: the usual network card of this GPU's servers."""
    host_gb_per_s: float = 25.0
    """PCIe, one direction, per GPU."""
    price_usd_per_hour: float = 0.0
    """What an hour of one costs here; 0: not said. Plans then say what a billion tokens cost."""
    power_w: float = 0.0
    """Board power limit; 0: not known."""
    nvlink_gpus: int = 0
    """GPUs that the link inside a node joins, where they are more than a node's."""
    source: str


class Link(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An interconnect between nodes: datasheet figure, or what was fitted on a real cluster."""

    name: str
    description: str = ""
    inter_node_gb_per_s: float
    """One direction, per GPU, as the network cards' datasheet has it."""
    gather_gb_per_s: float | None = None
    """Fitted: rate at which one GPU receives in a parameter all-gather across nodes; None: derived."""
    all_to_all_gb_per_s: float | None = None
    """Fitted: bytes per second that one GPU sends to other nodes in an all-to-all; None: derived."""
    fitted_on: str = ""
    residuals: str = ""
    source: str


class AttentionSpeed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attention kernel's speed: TFLOPs = asymptote · S / (S + half_len), the causal half counted."""

    kernel: str
    head_dim: int
    forward_tflops: float
    backward_tflops: float
    half_len: float
    """Tokens at which half the asymptote is reached."""
    source: str


class Spread(Struct, frozen=True, forbid_unknown_fields=True):
    """An 80 % interval around an estimate, as shares of it: this much below, this much above."""

    below: float
    above: float


Known = Literal["stack and GPU", "stack", "GPU", "neither"]
"""What was measured of a plan's training system and GPU model."""


class Constants(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a GPU reaches of its datasheet figures; few, physical, fitted on published or own measurements."""

    name: str
    gpus: list[str]
    """Keys of presets/hardware that these hold for, or "cpu"."""
    gemm_share: float
    """Of the dense bf16 peak, in long matrix products inside a training step."""
    product_half_width: float = 0.0
    """Inner width of a product at which half of that is reached: what starting and ending it costs."""
    price_usd_per_hour: float = 0.0
    """What an hour of one costs here; 0: not said. Plans then say what a billion tokens cost."""
    power_w: float = 0.0
    """Board power at which the share was measured; 0: any."""
    power_exponent: float = 0.0
    """Share of products at another power limit: (its watts / power_w) to this exponent."""
    ring_decline: float = 1.0
    """Rate of a ring over twice as many nodes, beyond two."""
    stream_share: float
    """Of the memory bandwidth, in element-wise kernels and copies."""
    nvlink_share: float
    """Of the link inside a node, in large collectives."""
    network_share: float
    """Of the network cards between nodes, in large collectives."""
    gather_contention: float
    """How much longer copies and collectives of sharding take beside compute than by their bytes alone."""
    straggler_share: float
    """What a step takes longer for each e-fold of GPUs beyond one node of 8."""
    launch_us: float = 5.0
    """One kernel launch from Python: a GPU waits for the launches only when it is done before them."""
    step_overhead_factor: float = 1.0
    """Times a stack's own figure that the host works between two steps; other than 1 where runs showed it."""
    fp8_gain: float = 1.0
    """How much faster than bf16 products run in FP8, casts included; published FP8 rows need it."""
    attention: list[AttentionSpeed]
    carried_over: str = ""
    """Where the constants come from when no measurement of this GPU was there; empty: measured."""
    stacks: list[str] = field(default_factory=list)
    """Training systems whose runs or rows on this GPU the constants were fitted on."""
    error_share: float = 0.1
    """Half-width of the interval in files of older versions, which have no spreads."""
    spreads: dict[Known, Spread] = field(default_factory=dict)
    """80 % intervals of TGS by what is known, from sources that were left out of the fit."""
    fitted_on: str = ""
    residuals: dict[str, float] = field(default_factory=dict)
    """Mean and worst |error| of the fit, by what was left out."""
    sources: dict[str, str] = field(default_factory=dict)
    """Constant -> where it comes from."""
