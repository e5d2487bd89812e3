"""What ranks saw for `tgsbench verify`, and the document that it prints."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

SCHEMA_VERSION = 1

EVIDENCE = "evidence"
"""Folder of a run that holds what its ranks saw."""
GRADIENTS = "gradients.npz"
"""Whole gradients of the first step, beside it."""
UPDATES = "updates.npz"
"""What all steps together changed in each parameter, beside it."""

Purpose = Literal["", "evidence", "steps", "oracle"]
"""What a run is for: "evidence" takes steps, reads all that enters the model and probes the masks, "steps"
takes steps alone, "oracle" computes what they should give in fp64; empty: a measurement."""

Status = Literal["passed", "failed", "skipped"]
CheckName = Literal[
    "parity", "oracle", "update", "engines", "labels", "tokens", "all_to_all", "ring", "experts", "kv_hops",
    "shards", "reduction", "mask", "causality", "determinism",
]  # fmt: skip


class ShardRecord(Struct, kw_only=True):
    """One shard of one pack: as it reached the model, or as the packed data demand it."""

    where: str
    """Such as "rank 1, step 0, micro-step 2", or "pack 3, shard 1 of 2"."""
    tokens: str
    """Digest of the token ids."""
    labels: str
    """Digest of the targets."""
    num_tokens: int
    """Real tokens; padding counts only in what ranks saw, which cannot tell it apart."""
    num_labels: int
    border: int
    """Target of the last position, the first token of the next shard; negative for none."""
    is_inner: bool = False
    """Demanded cuts only: does another shard of the pack follow?"""


class MaskProbe(Struct, kw_only=True):
    """One rank's sums of token losses before and after some tokens were changed, every position labelled."""

    changed: str
    """Which ones, such as "document 2 of pack 5"; one for each row of the micro-batch."""
    others: float
    """Of the positions that must not move."""
    others_after: float
    own: float
    """Of the changed positions themselves, which must move."""
    own_after: float


class Routing(Struct, kw_only=True):
    """How far a trained router's choices are those of fp64."""

    decisions: int = 0
    """Tokens times layers with experts that were compared."""
    ties: int = 0
    """Where fp64 chose others, its scores too near to each other to say: the trained ones were taken."""
    farthest: float = 0.0
    """Largest distance from a tie of a choice that is not fp64's, in standard deviations of the scores."""


class Evidence(Struct, kw_only=True):
    """What one rank saw in one run; written by the rank itself."""

    schema_version: int = SCHEMA_VERSION
    rank: int
    loss_sums: list[float] = []
    """This rank's share of each optimizer step's loss."""
    grad_norms: list[float] = []
    num_labels: list[int] = []
    """Labels by which each step's loss is divided, over all ranks."""
    all_to_alls: list[tuple[int, int]] = []
    """Calls and bytes of each step, counted at the process group."""
    ring_sends: list[tuple[int, int]] = []
    """Messages round the ring and their bytes, of each step, counted there too."""
    expert_exchanges: list[tuple[int, int]] = []
    """All-to-alls of tokens to their experts and back, and their bytes, of each step, counted there too."""
    kv_hops: list[tuple[int, int]] = []
    """All-to-alls of keys and values between nodes, and their bytes, of each step, counted there too."""
    gathers: list[tuple[int, int]] = []
    """Gathers of parameters, and bytes that they made whole, of each step, counted there too."""
    scatters: list[tuple[int, int]] = []
    """Reduce-scatters of gradients, and bytes that went into them, likewise."""
    copy_sums: list[tuple[int, int]] = []
    """All-reduces of shards of the gradients over copies, and their bytes, likewise."""
    tokens: list[int] = []
    """Real tokens of each step, as the trainer counts them for TGS."""
    reduced: list[str] = []
    """Types of floating-point tensors that reached a reduction over more than one rank, sorted."""
    routing: Routing = field(default_factory=Routing)
    """The oracle only, of a model with experts."""
    cuts: list[ShardRecord] = []
    demanded: list[ShardRecord] = []
    """Rank 0 only: what the packed data demand of all ranks together."""
    leak: MaskProbe | None = None
    """One document changed; None where no pack holds two documents."""
    causality: MaskProbe | None = None
    """Every token from some position on changed; None in runs that are not probed."""


def evidence_of(rank: int) -> str:
    """A rank's evidence, in its run's folder."""
    return f"{EVIDENCE}/rank{rank:05d}.json"


class Check(Struct, kw_only=True):
    """One check of one engine."""

    name: CheckName
    engine: str
    status: Status
    measured: str = ""
    """The figure for people."""
    bound: str = ""
    value: float | None = None
    """The figure; None where none was measured."""
    limit: float | None = None
    """What `value` must not exceed (counts: must equal)."""
    worst: str = ""
    """Where it is worst: a parameter, a step, a shard, a document."""
    note: str = ""
    """What else must be said, such as why it was skipped."""


class Verification(Struct, kw_only=True):
    """The document of `tgsbench verify --json`."""

    schema_version: int = SCHEMA_VERSION
    preset: str
    engines: list[str]
    passed: bool
    """No check failed; one that was skipped proves nothing and says why."""
    num_passed: int
    num_failed: int
    num_skipped: int
    checks: list[Check]
    what: str
    """The shrunken model and mesh that were run."""
    world_size: int
    dp: int
    sp: int
    seq_len: int
    num_steps: int
    device: str = "cpu"
    document_mask: bool = False
    unseen: str = ""
    """What this verification cannot see, in one sentence."""
    wall_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
