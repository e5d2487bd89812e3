"""The documents of a run directory: run.json (before launch) and result.json (after)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from tgsbench.schema.environment import Environment
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import ModelShape
from tgsbench.schema.verify import Purpose

SCHEMA_VERSION = 1

Status = Literal[
    "running",
    "ok",
    "oom",
    "crashed",
    "stalled",
    "cancelled",
    "preempted",
    "invalid",
    "refused",
    "emulated",
    "virtual",
]
Verdict = Literal["better", "worse", "same", "not significant", "not comparable", "none"]


class VirtualGpu(Struct, kw_only=True, frozen=True):
    """The GPU that a run's ranks see although it is not there."""

    gpu: str
    """Key of presets/hardware."""
    rank: int | None = None
    """The one rank of the whole mesh that runs; None: all of them do."""


class Manifest(Struct, kw_only=True):
    """run.json: what was asked for, written before anything starts."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    preset: str
    engine: str
    created_unix: float
    argv: list[str] = []
    """The command that starts the ranks; to read and copy, never executed from here."""
    world_size: int
    device: str
    host: str = ""
    supervisor_pid: int = 0
    supervisor_identity: str = ""
    """Boot, number and start of the supervisor: no later process is taken for it."""
    nodes: list[str] = []
    """Machines asked for, the first one leads; empty for one machine."""
    job_id: str = ""
    """Number that a scheduler gave the run."""
    rehearsal_of: str = ""
    emulated: bool = False
    """One process runs one rank of the mesh; see Emulation."""
    virtual: VirtualGpu | None = None
    """The ranks run on a virtual GPU: nothing of theirs is a measurement of speed."""
    for_verification: Purpose = ""
    """What the ranks do for `tgsbench verify` instead of measuring; see schema.verify."""
    follows: str = ""
    """The oracle only: the run beside this one whose experts it takes where scores tie."""
    forecast: Forecast | None = field(default=None, name="prediction")
    """The planner's, made before launch."""
    tags: list[str] = []
    changed: list[str] = []
    """`key=value` that differ from the preset of this name; see presets.work."""
    repeat_of: str = ""
    """Group of runs that repeat one measurement in fresh processes; its members are GROUP-1, GROUP-2, …"""

    @property
    def started_ranks(self) -> list[int]:
        """The ranks that have a process."""
        if self.virtual is not None and self.virtual.rank is not None:
            return [self.virtual.rank]
        return [0] if self.emulated else list(range(self.world_size))


class RankExit(Struct, kw_only=True):
    """How one rank's process ended, as its parent saw it."""

    rank: int
    exit_code: int
    signal: str = ""
    t: int = 0
    """Wall-clock seconds."""


class LauncherReport(Struct, kw_only=True):
    """launcher.json: what the agent saw of its ranks."""

    exits: list[RankExit] = []
    node_rank: int = 0
    signal: str = ""
    """Signal that ended the agent itself."""
    problem: str = ""
    """Why no rank could be started at all."""
    ended_unix: float = 0.0


class Outcome(Struct, kw_only=True):
    """outcome.json: what the supervisor knows that no rank could write."""

    status: Literal["exited", "cancelled", "preempted", "stalled"] = "exited"
    exit_code: int = 0
    reason: str = ""
    hint: str = ""
    ended_unix: float = 0.0
    node_rank: int = 0
    host: str = ""
    cause: str = ""
    """What this machine knows of why a run stalled: silent ranks, a network that is cut."""
    disk: str = ""
    """Why nothing could be written into the run folder any more; empty while it could."""
    left: list[int] = []
    """Ranks of this machine that had gone without a word while the agent took them for done."""
    oom_kills: int = 0
    """How often the kernel's out-of-memory killer struck on this host during the run."""


class Tgs(Struct, kw_only=True):
    """Tokens per GPU per second over measured optimizer steps."""

    median: float | None = None
    ci95: tuple[float, float] | None = None
    """Order-statistic interval of the median; None below 6 samples, where none exists at 95 %."""
    n: int = 0
    samples: list[float] = []
    total: float | None = None
    """Sum of tokens over sum of time."""


class StepTime(Struct, kw_only=True):
    """Seconds per optimizer step, slowest rank."""

    median: float | None = None
    samples: list[float] = []


class Memory(Struct, kw_only=True):
    """Largest value over ranks and measured steps; `kind` says what was measured."""

    peak_gib: float | None = None
    allocated_gib: float | None = None
    reserved_gib: float | None = None
    kind: Literal["cuda", "rss"] = "rss"
    by_rank_gib: list[float] = []


class Loss(Struct, kw_only=True):
    """Label-weighted mean loss of the first and last measured step."""

    first: float | None = None
    last: float | None = None


class Packing(Struct, kw_only=True):
    """What packing did to the corpus."""

    num_full: int = 0
    num_short: int = 0
    mean_pack_tokens: float = 0.0
    share_lost: float = 0.0
    share_padded: float = 0.0
    num_documents: int = 0
    num_long: int = 0
    """Documents longer than a sequence."""
    tokens_left_out: int = 0
    """Of them, cut off or dropped before packing, as the preset's `workload.long_documents` says."""
    note: str = ""


class CapturedTrace(Struct, kw_only=True):
    """One rank's profiler trace, as it was written."""

    rank: int
    file: str
    """Relative to the run folder."""
    num_bytes: int = 0
    export_s: float = 0.0
    """Seconds that the rank took to write it."""
    steps: list[int] = []
    """Optimizer steps in it."""


class Capture(Struct, kw_only=True):
    """What the capture cost: profiled steps, their overhead, trace sizes and export times."""

    num_steps: int = 0
    step_s: float | None = None
    """Median seconds of a profiled optimizer step."""
    over_measured: float | None = None
    """The same over the median measured step."""
    traces: list[CapturedTrace] = []


class Integrity(Struct, kw_only=True):
    """Did every token train exactly once, and did every all-to-all fire?"""

    tokens_ok: bool | None = None
    a2a_ok: bool | None = None
    tokens_seen: int = 0
    tokens_expected: int = 0
    a2a_calls: int = 0
    a2a_calls_expected: int = 0
    a2a_bytes: int = 0
    a2a_bytes_expected: int = 0
    ring_ok: bool | None = None
    """Did every message go round the ring? None without a ring."""
    ring_calls: int = 0
    ring_calls_expected: int = 0
    ring_bytes: int = 0
    ring_bytes_expected: int = 0
    experts_ok: bool | None = None
    """Did every token go to its experts and come back? None where experts are not shared out."""
    expert_calls: int = 0
    expert_calls_expected: int = 0
    expert_bytes: int = 0
    expert_bytes_expected: int = 0
    hops_ok: bool | None = None
    """Did keys and values go to every node once? None where they go straight to every rank."""
    hop_calls: int = 0
    hop_calls_expected: int = 0
    hop_bytes: int = 0
    hop_bytes_expected: int = 0
    shards_ok: bool | None = None
    """Were all parameters gathered, and all gradients reduced, as often as the ZeRO stage demands? None where
    FSDP shards nothing, or where nobody counted."""
    gather_calls: int = 0
    gather_calls_expected: int = 0
    gather_bytes: int = 0
    gather_bytes_expected: int = 0
    scatter_calls: int = 0
    scatter_calls_expected: int = 0
    scatter_bytes: int = 0
    scatter_bytes_expected: int = 0
    copy_calls: int = 0
    """All-reduces of shards of the gradients over several copies."""
    copy_calls_expected: int = 0
    copy_bytes: int = 0
    copy_bytes_expected: int = 0
    physical_ok: bool | None = None
    """Loss, gradients, rates, times and memory are what physics allows; see metrics/physical.py."""
    files_ok: bool | None = None
    """What the run's files say twice agrees, and no step is missing; see metrics/written_twice.py."""
    damaged: str = ""
    """What was passed over in the event files: the figure rests on the rest."""
    problems: list[str] = []
    not_checked: list[str] = []
    """Checks of physical sense that lacked a figure, each with what was missing."""


class ExpertTokens(Struct, kw_only=True):
    """How unevenly tokens went to experts in the measured steps."""

    routing: str
    """learned: by the router's weights; uniform: dealt in turn, whatever the router says."""
    busiest_expert: float
    """Tokens of a layer's busiest expert over the mean of its experts, on the rank where that is largest."""
    busiest_rank: float | None = None
    """Tokens that came to the busiest rank's experts over the mean of the ranks; None: not shared out."""


class ReferenceVerdict(Struct, kw_only=True):
    """The result beside the published row."""

    tgs: float | None = None
    source: str = ""
    verdict: Verdict = "none"
    ratio: float | None = None
    reasons: list[str] = []


class Emulation(Struct, kw_only=True):
    """One rank measured alone at several depths, and what follows for the whole mesh.

    Seconds of an optimizer step: accumulation · (micro_fixed_s + L · layer_s) + optimizer_s + communication.
    """

    depths: list[int]
    n: int
    """Repetitions; all depths took turns in each."""
    layer_s: float
    """Computation of one layer in one micro-step: forward, recomputation, backward (median)."""
    layer_ci: tuple[float, float]
    micro_fixed_s: float
    """What a micro-step costs beside its layers: embedding, head, loss."""
    optimizer_s: float
    """Gradient norm, clipping and update of all layers' shards."""
    compute_s: float
    communication_s: float
    """From the planner's model, not measured."""
    communication: dict[str, float] = {}
    step_s: float
    tgs: float
    tgs_low: float
    tgs_high: float
    tflops: dict[str, float] = {}
    mfu: float | None = None
    mem_measured_gib: dict[int, float] = {}
    """Peak by depth, with the parameters and states of all built layers."""
    mem_projected_gib: float | None = None
    """Peak of a rank with all layers."""
    mem_planned_gib: float | None = None
    """The planner's tensors at the peak."""
    problems: list[str] = []


class PhasePeak(Struct, kw_only=True):
    """Peak memory of one phase of a rank's life on a virtual GPU."""

    phase: str
    allocated_gib: float | None = None
    """In tensors, as torch counts; None where no step reported it."""
    reserved_gib: float = 0.0
    """Held by torch's allocator."""


class CallCount(Struct, kw_only=True):
    """Calls of one name in one optimizer step."""

    name: str
    calls: int
    gib: float = 0.0
    """Bytes that they moved, where they move some."""
    group: str = ""
    """Ranks of the communicator, for collectives."""
    calls_expected: int | None = None
    gib_expected: float | None = None


class VirtualClock(Struct, kw_only=True):
    """An optimizer step on a clock: this run's own calls, the planner's seconds for each piece of work."""

    step_s: float
    tgs: float
    tgs_low: float
    tgs_high: float
    compute_s: float
    """The device computes or copies."""
    exposed_s: float
    """Only collectives go on: nothing hides them."""
    idle_s: float
    """The device waits for the host."""
    stragglers_s: float
    """Added for the slowest of all ranks, by the planner's share."""
    host_s: float
    """Processor time of the host between its calls."""
    by_kind: dict[str, float] = {}
    """Busy seconds of products, attention, collectives by kind, copies, the rest; overlaps counted twice."""
    trace: str = ""
    """The step as a trace in torch's format, relative to the run folder."""


class Virtual(Struct, kw_only=True):
    """What ranks on a virtual GPU did: everything but numbers and seconds of the device."""

    gpu: str
    rank: int | None = None
    """The one rank that ran; None: all did, and these figures are those of the first."""
    peaks: list[PhasePeak] = []
    mem_planned_gib: float | None = None
    """The planner's tensors at the peak."""
    micro_steps: int = 1
    """In an optimizer step."""
    launches: int = 0
    """Kernels, products, copies and collectives of the last measured optimizer step."""
    kernels: list[CallCount] = []
    """By name, most frequent first."""
    gemms: int = 0
    gemm_tflop: float = 0.0
    copies: list[CallCount] = []
    collectives: list[CallCount] = []
    host_waits: int = 0
    """Times the host waited for the device within the step."""
    host_s: float = 0.0
    """Processor time of the rank's process in the step."""
    host_s_by_step: list[float] = []
    launches_per_s: float | None = None
    clock: VirtualClock | None = None
    """None: no constants were fitted for this GPU, or no step was measured."""
    unknown_calls: dict[str, int] = {}
    """Calls that the virtual device does not know, each with how often it was made."""
    not_known: list[str] = []
    """What a virtual GPU cannot say."""
    problems: list[str] = []


class RankWaitedFor(Struct, kw_only=True):
    """A rank that the others waited for, step after step."""

    rank: int
    host: str = ""
    lost_s: float = 0.0
    """Seconds of the run that the others waited for it."""
    share: float = 0.0
    """Of the time of all steps that were looked at."""


class Failure(Struct, kw_only=True):
    """Root cause of a run that did not end well."""

    kind: str
    reason: str
    """One line."""
    rank: int | None = None
    host: str = ""
    traceback: str = ""
    hint: str = ""
    bytes_requested: int = 0
    bytes_in_use: int = 0
    forecast: str = ""
    """Out of memory: what the plan expected, and by how much it missed."""
    files: list[str] = []
    """What was collected for a closer look, relative to the run folder: stacks, snapshots."""


class Result(Struct, kw_only=True):
    """result.json: everything that can be said about a run; derived from its events alone."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Status
    preset: str
    engine: str
    device: str
    """Device name as the driver reports it, or "cpu"."""
    world_size: int
    dp: int
    sp: int
    sharing: str = ""
    """Ring, copies, ZeRO stage below 3 and bf16 sums of gradients, in words."""
    seq_len: int
    document_mask: bool
    attention: str
    """Sequence-parallel attention and kernel, such as "native/sdpa"."""
    checkpointing: str
    corpus: str
    accumulation: int = 1
    micro_batch: int = 1
    compute_dtype: str = ""
    linear: str = ""
    """What products of the layers' projections run in, such as "FP8 rowwise"; empty: in the compute dtype."""
    model: ModelShape | None = None
    rehearsal_of: str = ""
    work: str = ""
    """What was measured, whatever the preset is called; see presets.work. Empty in results of 0.2.0."""
    changed: list[str] = []
    """`key=value` that differ from the preset of this name."""
    repeat_of: str = ""
    """Group of runs that repeat this measurement."""
    tgs: Tgs = field(default_factory=Tgs)
    tflops: dict[str, float] = {}
    """TFLOPs per GPU by convention: xtuner, model, palm, hardware."""
    mfu: float | None = None
    """`model` TFLOPs over the dense peak, of FP8 where `linear` is in it, else of bf16; None for a device
    without a known peak."""
    mfu_bf16: float | None = None
    """Beside it, over the bf16 peak, where `linear` is in FP8."""
    step_s: StepTime = field(default_factory=StepTime)
    mem: Memory = field(default_factory=Memory)
    power_w: float | None = None
    """Watts of one GPU by NVML, the mean in measured steps; None: not measured."""
    start_up_s: float | None = None
    """Seconds from the command to the first step: data, imports, model."""
    tokens_per_step: int = 0
    loss: Loss = field(default_factory=Loss)
    packing: Packing = field(default_factory=Packing)
    experts: ExpertTokens | None = None
    """None: the model has no experts, or no step was measured."""
    integrity: Integrity = field(default_factory=Integrity)
    reference: ReferenceVerdict = field(default_factory=ReferenceVerdict)
    references: list[ReferenceVerdict] = []
    forecast: Forecast | None = field(default=None, name="prediction")
    """The planner's, made before launch."""
    emulated: Emulation | None = None
    """What one rank alone says of the mesh; `tgs` stays empty then, for it was not measured."""
    virtual: Virtual | None = None
    """What ranks on a virtual GPU did; `tgs` stays empty then, for nothing was computed."""
    failure: Failure | None = None
    profile: Capture | None = None
    claimed: dict[str, float] | None = None
    """An external engine's own figures under its own names, beside ours."""
    claimed_tgs: float | None = None
    """The one of them that is meant as our TGS is."""
    claimed_basis: str = ""
    """What that one is made of, where ours is made otherwise."""
    slow_rank: RankWaitedFor | None = None
    """The rank that held the others up longest; None: none did, or nobody looked."""
    warnings: list[str] = []
    hosts: list[str] = []
    """Machines that ranks ran on, in the order of their first rank."""
    sp_spans_nodes: bool = False
    """Some sequence-parallel group's all-to-all crosses machines."""
    disturbances: list[str] = []
    """What else used this machine before or during the measurement; empty: nothing was seen."""
    run_dir: str = ""
    created_unix: float = 0.0
    environment: Environment = field(default_factory=Environment)
