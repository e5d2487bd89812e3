"""Event protocol v1: what a rank observed, one JSON object a line, one file per rank.

Every event has `v` (major version), `type`, `t` (CLOCK_MONOTONIC seconds of its host), `rank`, `seq`.
Derived figures (TGS, TFLOPs, MFU) never appear here: `tgsbench.metrics` computes them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

PROTOCOL_VERSION = 1

PhaseName = Literal["init", "data", "build", "warmup", "measure", "profile", "teardown"]
Doing = Literal["", "data", "forward", "backward", "optimizer"]
"""What a rank does inside an optimizer step."""
PHASES: tuple[PhaseName, ...] = ("init", "data", "build", "warmup", "measure", "profile", "teardown")

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What a rank counts: JSON has longer numbers, which no float holds; a line with one is a damaged line."""
Count = Annotated[float, Meta(ge=-(2.0**63), le=2.0**63)]
"""An `Int64` that is only added up and divided; exact below 2^53."""
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
"""How long something took; 30 years at most, so that sums stay finite."""


class _Event(Struct, tag_field="type", kw_only=True):
    """Kinds that come by the thousand and hold only numbers and texts are hidden from the cycle collector."""

    v: Annotated[int, Meta(le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    t: float = 0.0
    rank: Int64 = 0
    seq: Int64 = 0


class Hello(_Event, tag="hello"):
    """First event of a rank: who and where it is."""

    world: Int64
    host: str
    device: str
    """Device name as the driver reports it, or "cpu"."""
    pid: Int64 = 0
    local_rank: Int64 = 0
    unix_t: float = 0.0
    """Wall clock at `t`, to line hosts up."""
    versions: dict[str, str] = field(default_factory=dict)
    preset_digest: str = ""
    """Of the bytes of preset.toml as this rank read them."""


class Phase(_Event, tag="phase", gc=False):
    """The rank entered a phase; `note` says what it is doing (such as "building cpu_adam")."""

    phase: str
    note: str = ""


class Data(_Event, tag="data"):
    """What packing did, written by rank 0 only."""

    corpus: str
    num_documents: Int64
    num_tokens: Int64
    num_full: Int64
    num_short: Int64
    mean_pack_tokens: float
    tokens_lost: Int64
    tokens_padded: Int64
    attended_len: float = 0.0
    """Σ len² / Σ len over documents: what attention sees per token under a document mask."""
    cached: bool = False
    num_long: Int64 = 0
    """Documents longer than a sequence."""
    tokens_left_out: Int64 = 0
    """Of them, cut off or dropped before packing."""
    note: str = ""


class Kernel(_Event, tag="kernel"):
    """Which attention kernel was chosen, and how."""

    name: str
    version: str = ""
    reason: str = ""


class Step(_Event, tag="step", gc=False):
    """One optimizer step as one rank saw it."""

    step: Int64
    """Counts from 0 over warm-up, measured and profiled steps."""
    phase: str = "measure"
    tokens: Int64 = 0
    """Real tokens in this rank's shards."""
    labels: Int64 = 0
    micro_steps: Int64 = 1
    step_s: Seconds = 0.0
    data_s: Seconds = 0.0
    loss_sum: float = 0.0
    """Sum of token losses over this rank's labels."""
    grad_norm: float = 0.0
    mem_alloc: Int64 = 0
    mem_reserved: Int64 = 0
    mem_peak: Int64 = 0
    """Bytes since the step began; CPU: resident set size."""
    a2a_calls: Int64 = 0
    a2a_bytes: Int64 = 0
    """Bytes this rank handed to all-to-all, its own share included; both counted at the process group."""
    ring_calls: Int64 | UnsetType = UNSET
    ring_bytes: Int64 | UnsetType = UNSET
    """Messages that this rank sent round its ring, keys, values and their gradients; counted there too. Not
    written without a ring: 33 bytes of each line."""
    expert_calls: Int64 | UnsetType = UNSET
    expert_bytes: Int64 | UnsetType = UNSET
    """All-to-alls of tokens to the ranks of their experts and back, counted there too; not written where
    experts are not shared out."""
    hop_calls: Int64 | UnsetType = UNSET
    hop_bytes: Int64 | UnsetType = UNSET
    """All-to-alls of keys, values and their gradients between nodes, which are no part of `a2a_…` then;
    not written where these go straight to every rank."""
    gather_calls: Int64 | UnsetType = UNSET
    gather_bytes: Int64 | UnsetType = UNSET
    """Gathers of sharded parameters, and bytes of what they made whole; runs from before have none."""
    scatter_calls: Int64 | UnsetType = UNSET
    scatter_bytes: Int64 | UnsetType = UNSET
    """Reduce-scatters of gradients, and bytes of what went into them."""
    copy_calls: Int64 | UnsetType = UNSET
    copy_bytes: Int64 | UnsetType = UNSET
    """All-reduces of this rank's shards of the gradients over several copies."""
    pack_tokens: Int64 = 0
    """Real tokens of the packs this step must train, from their lengths; as the next two, reported by the
    first rank of each sp group only."""
    seen_checksum: Int64 = 0
    """Position-weighted sum over the token ids that reached this rank's embedding, modulo 2^61 − 1."""
    pack_checksum: Int64 = 0
    """The same over the whole packs as they lie in the packed data."""
    pack_digest: Int64 = 0
    """Of the packs' tokens and places in the stream: differs from step to step and between sp groups."""
    update: float | None = None
    """Median absolute change of a sample of this rank's master weights by the optimizer; None: not seen."""


class FirstStep(_Event, tag="first_step"):
    """What the first optimizer step did on one rank, looked at once between two steps."""

    num_labels: Int64 = 0
    """That its packs hold, over all ranks; 0: not told."""
    updates: list[float | None] = field(default_factory=list)
    """Of each layer as `Step.update`; None: this rank holds no part of it."""
    added: list[float | None] = field(default_factory=list)
    """Norm of what each micro-step added to a sample of this rank's gradients; empty: not seen."""
    moments_squared: float | None = None
    """Sum of the squares of this rank's part of Adam's first moments: over all ranks those of the gradient
    as it was clipped, times (1 − beta1)². None: not known of each rank alone."""


class Waits(_Event, tag="waits", gc=False):
    """How long a rank stood in collectives in an optimizer step: waits for others, and the transfer."""

    step: Int64
    step_s: Seconds = 0.0
    wait_s: dict[str, Seconds] = field(default_factory=dict)
    """By process group: sp, fsdp, world."""


class RoutedTokens(_Event, tag="routed_tokens"):
    """How unevenly this rank's tokens went to experts in all measured steps."""

    busiest: Annotated[float, Meta(ge=0)]
    """Tokens of a layer's busiest expert over the mean of its experts, over layers and steps."""
    received: Int64 = 0
    """Rows that came to the experts of this rank; 0 where experts are not shared out."""


class StepGlance(_Event, tag="step", gc=False):
    """What the live view reads of a `Step` line, at four fifths of the cost; counts are floats.

    A line whose damage is in another field counts here, while `Step` refuses it.
    """

    step: Int64
    phase: str = "measure"
    tokens: Count = 0.0
    labels: Count = 0.0
    step_s: Seconds = 0.0
    data_s: Seconds = 0.0
    loss_sum: float = 0.0
    mem_peak: Count = 0.0


class Depth(_Event, tag="depth", gc=False):
    """One micro-step and one optimizer step of an emulated rank with its first `num_layers` layers."""

    num_layers: Int64
    built_layers: Int64
    """Layers that hold parameters and optimizer states meanwhile."""
    index: Int64
    """Repetition; all depths take turns in each."""
    micro_step_s: Seconds
    optimizer_s: Seconds
    local_tokens: Int64
    """Tokens of this rank in a micro-step."""
    state_bytes_per_layer: Int64 = 0
    """This rank's shard of a layer's parameters and optimizer states."""
    mem_peak: Int64 = 0
    mem_alloc: Int64 = 0
    mem_forward: Int64 = 0
    """Bytes in tensors when the forward was over: all layers' activations are kept then."""
    a2a_calls: Int64 = 0
    a2a_bytes: Int64 = 0
    ring_calls: Int64 = 0
    ring_bytes: Int64 = 0
    expert_calls: Int64 = 0
    expert_bytes: Int64 = 0
    hop_calls: Int64 = 0
    hop_bytes: Int64 = 0
    gather_calls: Int64 | UnsetType = UNSET
    gather_bytes: Int64 = 0
    scatter_calls: Int64 = 0
    scatter_bytes: Int64 = 0
    copy_calls: Int64 = 0
    copy_bytes: Int64 = 0
    finite: bool = True
    """Neither loss nor gradient norm was NaN or infinite: products of NaN take another time."""


class Gpu(_Event, tag="gpu", gc=False):
    """One sample of a GPU's state; at most one a second."""

    util: float = 0.0
    power_w: float = 0.0
    temp_c: float = 0.0
    sm_mhz: float = 0.0
    throttled: str = ""
    """Why clocks are held down, or empty."""


class Heartbeat(_Event, tag="heartbeat", gc=False):
    """The rank is alive (written by a thread, so also while it is stuck in a collective), and where it is."""

    step: Int64 = 0
    step_s: Seconds = 0.0
    """Since the step began."""
    micro_step: Int64 = 0
    """The one being done, from 1; 0 where none is known."""
    num_micro_steps: Int64 = 0
    doing: str = ""
    """See `Doing`."""
    layer: Int64 = 0
    """The decoder layer entered last, from 1; 0 outside the layers. On a GPU: whose kernels were queued."""
    num_layers: Int64 = 0
    collective: str = ""
    """The exchange that the rank's thread waits in."""
    ticks: Int64 = 0
    """Grows with everything that the rank gets done, in a step or before it."""


class Claimed(_Event, tag="claimed"):
    """What another system says of its own speed, in its own words; never used as a measurement."""

    system: str
    figures: dict[str, float] = field(default_factory=dict)
    tgs: float = 0.0
    """The one of them that is meant as ours is, in tokens per GPU per second; 0: it says none."""
    basis: str = ""
    """What that one is made of, where ours is made otherwise."""


class Trace(_Event, tag="trace"):
    """A profiler trace was written."""

    path: str
    steps: list[Int64] = field(default_factory=list)
    num_bytes: Int64 = 0
    export_s: Seconds = 0.0


EVENTS_LOST = "events_lost"
"""Code of the warning that a rank could not write some of its events."""


class Warn(_Event, tag="warn"):
    """Something the user should know; `hint` is the remedy."""

    code: str
    msg: str
    hint: str = ""


class Error(_Event, tag="error"):
    """Why this rank ends early."""

    kind: str
    """oom | host_oom | refused | unsupported | nan | exception"""
    msg: str
    traceback: str = ""
    hint: str = ""
    exit_code: Int64 = 8
    bytes_requested: Int64 = 0
    bytes_in_use: Int64 = 0
    """Out of memory: what the process held when it asked for more."""


class Bye(_Event, tag="bye"):
    """Last event of a rank that ended by itself."""

    status: str = "ok"


_OfStart = Hello | Phase | Data | Kernel | Claimed | FirstStep
_Rare = _OfStart | Depth | Gpu | Heartbeat | Waits | RoutedTokens | Trace | Warn | Error | Bye
Event = Step | _Rare
Glance = StepGlance | _Rare
