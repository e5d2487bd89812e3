"""Where the time of profiled steps went: the document that `tgsbench profile --json` prints.

Conventions: every `*_ms` is milliseconds per step (mean over the profiled steps of a rank; on the top
level also over ranks); calls and bytes are per step and rank; shares are fractions of the step window.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field

from tgsbench.schema.collective_kinds import KINDS

PROFILE_VERSION: Final = 1

COLLECTIVES: Final = tuple(kind.name for kind in KINDS)
"""Kinds of communication; comm_other: named but none of ours; comm_unknown: no name could be found."""

COMPUTE: Final = (
    "attention_fwd",
    "attention_bwd",
    "linear_attention",
    "recompute",
    "router",
    "experts",
    "shared_expert",
    "gemm",
    "norm_elementwise",
    "loss",
    "optimizer",
    "memcpy",
    "data",
    "other",
)
"""Kinds of work; `recompute` is everything an activation checkpoint runs again but its collectives. Those of
experts hold their products and what stands around them, forward and backward; `linear_attention` holds
recurrences in chunks (gated delta rule, GLA, Mamba) and their short convolutions, without the projections."""

PARTS: Final = (*COMPUTE, *COLLECTIVES, "idle")
"""What a step window is split into, each instant counted once: work first, then exposed communication,
then idle. The shares of a rank add up to 1."""


class _Titles(dict[str, str]):
    """A part that this version does not know, in a profile of a newer one, is called by its key."""

    def __missing__(self, part: str) -> str:
        return part


TITLES: Final = _Titles(
    {
        "attention_fwd": "attention forward",
        "attention_bwd": "attention backward",
        "linear_attention": "linear attention",
        "recompute": "recompute",
        "router": "router",
        "experts": "experts",
        "shared_expert": "shared expert",
        "gemm": "GEMM",
        "norm_elementwise": "norms and elementwise",
        "loss": "loss",
        "optimizer": "optimizer",
        "memcpy": "memcpy",
        "data": "data",
        "other": "unknown",
        **{kind.name: kind.title for kind in KINDS},
        "idle": "idle",
    }
)
"""How each part is written for people."""


class Collective(Struct, kw_only=True):
    """One kind of collective on one process group."""

    name: str
    """A kind of COLLECTIVES."""
    group: str
    """"sp", "fsdp", … where the trace names its groups, else its id or ""."""
    group_ranks: list[int] = []
    calls: float = 0.0
    bytes: float | None = None
    """Handed to the collective; None where the trace does not say (gloo without record_shapes)."""
    total_ms: float = 0.0
    """In flight, waiting for peers included."""
    exposed_ms: float = 0.0
    """In flight while this rank computed nothing."""
    hidden_ms: float = 0.0
    mean_us: float = 0.0
    p95_us: float = 0.0
    gb_per_s: float | None = None
    """Algorithm bandwidth: bytes over time in flight."""
    bus_gb_per_s: float | None = None
    """Bytes that crossed the rank's link over time in flight: what the link's peak bounds."""
    peak_gb_per_s: float | None = None
    """The link's peak in one direction, where known."""
    peak_source: str = ""
    resolved_by: str = "name"
    """How the kind was found, weakest first match: kernel, params, launch, annotation, op, name, stream."""


class HotOp(Struct, kw_only=True):
    """One kernel or operator among the most expensive."""

    name: str
    kind: str
    """A part of PARTS."""
    source: Literal["kernel", "operator"] = "kernel"
    calls: float = 0.0
    total_ms: float = 0.0
    """Kernel time; for an operator its self time."""
    share: float = 0.0
    mean_us: float = 0.0
    p95_us: float = 0.0
    tflops: float | None = None
    """Achieved, for attention and GEMM whose shapes the trace records."""
    peak_tflops: float | None = None


class DeviceProfile(Struct, kw_only=True):
    """One of several devices in one trace; milliseconds per step."""

    device: str
    busy_ms: float = 0.0
    compute_ms: float = 0.0
    comm_ms: float = 0.0
    """In flight, beside work or not."""
    exposed_ms: float = 0.0
    idle_ms: float = 0.0


class RankProfile(Struct, kw_only=True):
    """One rank's trace."""

    rank: int
    worker: str = ""
    path: str = ""
    num_bytes: int = 0
    device: Literal["cuda", "cpu"] = "cpu"
    device_name: str = ""
    steps: list[int] = []
    """Numbers of the profiled steps; empty when the trace marks none."""
    window_ms: float = 0.0
    """The whole profiled window, not per step."""
    step_ms: float = 0.0
    parts_ms: dict[str, float] = {}
    shares: dict[str, float] = {}
    comm_ms: dict[str, float] = {}
    """Time in flight by kind, hidden part included."""
    exposed_ms: dict[str, float] = {}
    hidden_ms: dict[str, float] = {}
    recompute_ms: dict[str, float] = {}
    """What `recompute` consists of, by kind: attention_fwd, gemm, …"""
    comm_total_ms: float = 0.0
    """Length of the union of all communication."""
    compute_ms: float = 0.0
    """Length of the union of all work."""
    overlap_ms: float = 0.0
    """Communication and work at the same instant."""
    idle_ms: float = 0.0
    python_ms: float = 0.0
    """CPU traces: part of `idle` in which the main thread ran Python between operators."""
    collectives: list[Collective] = []
    top: list[HotOp] = []
    num_events: int = 0
    num_unresolved: int = 0
    """Communication kernels whose kind could not be found (their time is `comm_unknown`)."""
    num_broken: int = 0
    """Events left out: no time, a negative or absurd duration."""
    devices: list[DeviceProfile] = []
    """Where the trace holds several; the figures of the rank are means over them."""
    kernels_recorded: bool = True
    """False: a GPU's job of which only the host's side is there; the parts are then of the host's time."""
    caveats: list[str] = []
    """What this rank's trace does not hold, or what was left out of its figures."""


class Skew(Struct, kw_only=True):
    """Who waits for whom in one kind of collective on one group."""

    name: str
    group: str
    calls: int = 0
    """Calls matched between ranks over the profiled steps."""
    wait_ms: dict[int, float] = {}
    """Rank -> time between its own arrival and the last rank's, per step."""
    last_rank: int = 0
    """The rank that arrived last most often."""
    last_share: float = 0.0
    """How often, of the matched calls."""
    mean_skew_us: float = 0.0
    max_skew_us: float = 0.0


IMPOSSIBLE = "impossible"
"""Code of a finding that makes the run's figures invalid: a rate beyond what the hardware can do."""


class Finding(Struct, kw_only=True):
    """One sentence with its figure, and what to try."""

    code: str
    text: str
    hint: str = ""
    share: float = 0.0
    """Fraction of the step it concerns; findings are sorted by it."""


class Profile(Struct, kw_only=True):
    """The analysis of one run's traces."""

    schema_version: int = PROFILE_VERSION
    source: str = ""
    """Run id or path."""
    device: Literal["cuda", "cpu"] = "cpu"
    device_name: str = ""
    world_size: int = 1
    """Ranks that the trace says took part; `ranks` holds those whose traces were read."""
    step_ms: float = 0.0
    parts_ms: dict[str, float] = {}
    shares: dict[str, float] = {}
    comm_ms: dict[str, float] = {}
    exposed_ms: dict[str, float] = {}
    hidden_ms: dict[str, float] = {}
    recompute_ms: dict[str, float] = {}
    collectives: list[Collective] = []
    top: list[HotOp] = []
    skew: list[Skew] = []
    findings: list[Finding] = []
    caveats: list[str] = []
    """What to keep in mind when reading the figures (CPU, no shapes, missing ranks)."""
    ranks: list[RankProfile] = []


class Change(Struct, kw_only=True):
    """One row of a comparison: `b` against `a`."""

    name: str
    a: float | None = None
    b: float | None = None
    delta: float | None = None
    ratio: float | None = None


class ProfileDiff(Struct, kw_only=True):
    """What changed from profile `a` to profile `b`; all figures in milliseconds per step."""

    schema_version: int = PROFILE_VERSION
    a: str
    b: str
    step_ms: Change = field(default_factory=lambda: Change(name="step"))
    parts: list[Change] = []
    exposed: list[Change] = []
    collectives: list[Change] = []
    top: list[Change] = []
    caveats: list[str] = []
