"""What a preset says: every value of a run, resolved, typed and closed to unknown keys."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from msgspec import Struct, field

from tgsbench.schema.hardware import Fp8Recipe
from tgsbench.schema.model import ModelShape as ModelShape  # re-exported: a preset holds one

Attention = Literal["native", "alst"]
"""Sequence-parallel attention: our fused all-to-all, or DeepSpeed's UlyssesSPAttentionHF."""
Checkpointing = Literal["none", "selective", "full"]
Routing = Literal["learned", "uniform"]
Device = Literal["cuda", "cpu"]
DataFormat = Literal["auto", "alpaca", "messages", "sharegpt", "text", "lines", "paragraphs"]
"""Rows of instruction and output, of role and content, of from and value, or of text; plain text in which a
document is a line, or what stands between empty lines."""


class Hardware(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine a preset is meant for; `gpu` is a key of presets/hardware or empty for CPU."""

    device: Device = "cuda"
    """What ranks compute on."""
    num_gpus: int
    """Ranks, one a GPU; on CPUs processes."""
    gpus_per_node: int = 8
    """GPUs of one machine, which NVLink joins; more ranks than that are on several machines."""
    gpu: str = ""
    """Name of the GPU, a key of presets/hardware; empty: a CPU."""
    link: str = ""
    """Interconnect between nodes, a key of presets/links; empty: the GPU's default."""


class Workload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained on."""

    seq_len: int
    """Packed sequence length in tokens."""
    corpus: str = "alpaca"
    """alpaca, pydoc, lengths (random tokens), the path of a file or of a folder that `save_to_disk` wrote, or
    a data set of the hub as NAME:SPLIT."""
    file: str = ""
    """Path of the data for corpus = "file"."""
    format: DataFormat = "auto"
    """What a row of the data is; auto: told by the first one."""
    tokenizer: str = ""
    """Folder with a tokenizer.json, such a file, or a hub name; empty: the model's own where it can be had,
    else a BPE trained on the corpus."""
    labels: Literal["auto", "all", "answers"] = "auto"
    """Tokens that are trained on: all, or answers alone; auto: answers in the reference's template, all in
    the tokenizer's own."""
    lengths: str = ""
    """Path of a histogram that corpus = "lengths" draws document lengths from: one length a line, or
    `length,count`; empty: Alpaca's lengths."""
    long_documents: Literal["split", "cut", "drop"] = "split"
    """Documents longer than a sequence: packed in pieces, cut to one sequence, or left out."""
    document_mask: bool = False
    """True: attention stays inside a document; False: causal over the whole pack."""
    packing: Literal["carry", "xtuner_stock"] = "carry"
    """How documents fill sequences: one after the other, a rest carried into the next sequence, or as
    XTuner's workers do it, each of which drops its last rest."""
    map_batch_size: int = 1000
    """Documents a packing worker maps at once (xtuner_stock only)."""
    map_num_proc: int = 32
    """Packing workers, each dropping its last carry (xtuner_stock only)."""
    concat: int = 1
    """How often the corpus is repeated before packing."""
    seed: int = 42
    """Of the order of documents, and of random tokens."""


class Parallel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How ranks share the work: dp · sp = world."""

    sp: int = 1
    """Ranks that share a sequence: Ulysses ranks, which trade it for heads, times members of the ring."""
    ring: int = 0
    """Members of the ring that keys and values go round; 0: 1 where the heads allow sp Ulysses ranks, else
    what is left when as many Ulysses ranks as heads allow are put inside a node."""
    shard: int = 0
    """Ranks that share one copy of parameters, gradients and optimizer states, neighbours; other such groups
    hold copies (HSDP). 0: all ranks share one copy."""
    ep: int = 1
    """Neighbours that share out a layer's experts: tokens go to them and their results come back in
    all-to-alls. Ranks that hold the same experts shard them. 1: every rank runs all experts."""


class EngineOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine trains, and the switches that all engines share.

    An engine's own switches are the fields of a subclass, which its EngineSpec names.
    """

    is_external: ClassVar[bool] = False
    """Does another system train as it is, in an environment of its own?"""
    has_ring: ClassVar[bool] = False
    """Can keys and values go round a ring of its ranks?"""
    has_copies: ClassVar[bool] = False
    """Can groups of ranks hold copies, and gradients be reduced in another type?"""
    has_expert_parallel: ClassVar[bool] = False
    """Can experts be shared out over ranks?"""
    has_fp8: ClassVar[bool] = False
    """Can products of its layers run in FP8?"""
    has_sequence_chunks: ClassVar[bool] = False
    """Can layers take a sequence in chunks through host memory?"""

    name: str = ""
    attention: Literal["auto", "native", "alst"] = "auto"
    """Sequence parallelism of attention: ours, or DeepSpeed's UlyssesSPAttentionHF; auto: ours."""
    kernel: Literal["auto", "sdpa", "cudnn", "varlen", "flash2", "flash3", "flash4"] = "auto"
    """Attention kernel of a GPU; auto: the fastest of those that run here, measured before the first step."""
    activation_offload: bool = False
    """Keep the layers' checkpointed inputs in pinned host memory."""
    tiled_mlp: bool = False
    """Run the MLP in tiles of about h tokens (ALST's TiledMLP)."""
    loss_chunk_tokens: int = 2048
    """Tokens whose logits exist at once; 0 materialises [S/sp, V]."""
    compile: bool = False
    """Compile each decoder layer with torch.compile: fewer kernels, and a start of minutes."""
    liger: bool = False
    """Norms, RoPE and SwiGLU by Liger's kernels, which must be installed; needs a GPU."""

    @property
    def zero_stage(self) -> int:
        """What is sharded over ranks, as ZeRO counts it: 3 is parameters, gradients and optimizer states."""
        return 3

    @property
    def offload(self) -> str:
        """What is kept in host memory: none, optimizer (its states), or all (parameters too)."""
        return "none"

    @property
    def sequence_chunks(self) -> int:
        """Chunks of the sequence that a layer takes one after the other; 1: the whole."""
        return 1

    @property
    def attention_in_use(self) -> Attention:
        """Sequence-parallel attention once `auto` is decided."""
        return "native" if self.attention == "auto" else self.attention

    def on_one_rank(self) -> Self:
        """The same options without what takes several ranks."""
        return self


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The optimisation that one step does."""

    micro_batch: int = 1
    """Sequences of a rank's group in one forward and backward; memory grows with it."""
    accumulation: int = 0
    """Micro-steps per optimizer step; 0: as many as sp, as the reference does."""
    checkpointing: Checkpointing = "full"
    """What a layer computes again in the backward: everything, all but attention and its all-to-alls, or
    nothing. The less, the more memory and the faster."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """What products and attention run in; weights and AdamW's states are fp32."""
    reduce_dtype: Literal["bfloat16", "float32"] = "float32"
    """What gradients are in while they are summed over ranks; never less than what they are computed in."""
    linear: Literal["plain", "fp8"] = "plain"
    """Products of the decoder layers' projections, forward and backward: in compute_dtype, or of operands in
    FP8. Attention, norms, router, embedding, head, sums and weights stay what they are."""
    fp8_recipe: Fp8Recipe = "rowwise"
    """What shares a power-of-two scale: a row along the sum, a whole tensor, or 32 values along the sum."""
    lr: float = 2e-5
    """Learning rate at its highest, after warm-up."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.999
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.0
    """AdamW's decay of every weight in a step, times the learning rate."""
    clip_norm: float = 1.0
    """Norm to which gradients of all parameters together are cut."""
    lr_warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises."""
    seed: int = 42
    """Of the random weights."""
    routing: Routing = "learned"
    """Who sends tokens to experts: the router, whose random weights load them unevenly, or turn by turn."""


class Measure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and how carefully the run measures."""

    steps: int = 10
    """Measured optimizer steps."""
    warmup: int = 3
    """Optimizer steps run first and dropped."""
    heartbeat_s: float = 2.0
    """Seconds between the signs of life of each rank."""
    stall_s: float = 600.0
    """No event from any rank for this long: the run is stalled."""


class Preset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark, fully resolved; written as preset.toml into every run."""

    schema_version: int = 1
    name: str
    description: str = ""
    model: ModelShape
    hardware: Hardware
    workload: Workload
    parallel: Parallel = field(default_factory=Parallel)
    engine: EngineOptions = field(default_factory=EngineOptions)
    """Of the struct that belongs to the engine's name."""
    training: Training = field(default_factory=Training)
    measure: Measure = field(default_factory=Measure)
    profile: str = ""
    """Capture recipe (a key of profiles/), or empty for none."""
    notes: list[str] = []
    rehearsal_of: str = ""
    """Name of the preset that this one shrinks; empty: measured as it is."""

    @property
    def world_size(self) -> int:
        """Number of ranks; one per GPU."""
        return self.hardware.num_gpus

    @property
    def is_external(self) -> bool:
        """Does another system train, in an environment of its own?"""
        return self.engine.is_external

    @property
    def dp(self) -> int:
        """Data-parallel size: world / sp."""
        return self.world_size // self.parallel.sp

    @property
    def ring(self) -> int:
        """Members of the ring once 0 is decided."""
        if self.parallel.ring or not self.may_ring:
            return self.parallel.ring or 1
        return fewest_members(self.model, self.parallel.sp, self.hardware.gpus_per_node)

    @property
    def shard(self) -> int:
        """Ranks that share one copy once 0 is decided."""
        return self.parallel.shard or self.world_size

    @property
    def reduce_dtype(self) -> str:
        """What gradients are summed in."""
        return "float32" if self.training.compute_dtype == "float32" else self.training.reduce_dtype

    @property
    def sharing(self) -> str:
        """How ranks share a sequence and parameters beyond dp and sp, in words; empty: as usual."""
        stage, shard = self.engine.zero_stage, self.shard
        words = [
            f"ring of {self.ring} x {self.ulysses} Ulysses" if self.ring > 1 else "",
            f"copies on {shard} of {self.world_size} GPUs" if shard != self.world_size else "",
            f"experts over {self.parallel.ep} GPUs" if self.parallel.ep > 1 else "",
            f"ZeRO-{stage}" if stage != 3 else "",
            f"{self.engine.sequence_chunks} sequence chunks" if self.engine.sequence_chunks > 1 else "",
            "gradients summed in bfloat16" if self.reduce_dtype != "float32" else "",
        ]
        return ", ".join(filter(None, words))

    @property
    def linear(self) -> str:
        """What products of the layers run in beside the compute dtype, in words; empty: in that."""
        return f"FP8 {self.training.fp8_recipe}" if self.training.linear == "fp8" else ""

    @property
    def may_ring(self) -> bool:
        """Does the engine have a ring, and do all layers attend?"""
        return self.engine.has_ring and self.model.linear is None

    @property
    def ulysses(self) -> int:
        """Ranks that trade sequence shards for head shards: sp / ring."""
        return self.parallel.sp // self.ring

    @property
    def accumulation(self) -> int:
        """Micro-steps per optimizer step."""
        return self.training.accumulation or self.parallel.sp

    @property
    def local_seq_len(self) -> int:
        """Tokens of one sequence that one rank holds."""
        return self.workload.seq_len // self.parallel.sp

    @property
    def packs_per_step(self) -> int:
        """Sequences that one optimizer step consumes over all ranks: dp · micro_batch · accumulation."""
        return self.dp * self.training.micro_batch * self.accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks."""
        return self.packs_per_step * self.workload.seq_len

    @property
    def attention(self) -> Attention:
        """Sequence-parallel attention in use once `auto` is decided."""
        return self.engine.attention_in_use


def divides_heads(model: ModelShape, ulysses: int) -> bool:
    """Can so many Ulysses ranks share the heads? KV heads are copied up to them where they are fewer."""
    heads, kv_heads = model.num_query_heads, model.num_kv_heads
    return not heads % ulysses and not (kv_heads % ulysses and ulysses % kv_heads)


def fewest_members(model: ModelShape, sp: int, gpus_per_node: int) -> int:
    """Ring members where a preset leaves them open: none where Ulysses does, else Ulysses inside the node."""
    if model.num_query_heads <= 0 or model.num_kv_heads <= 0 or sp <= 0 or divides_heads(model, sp):
        return 1
    inside = math.gcd(sp, max(1, gpus_per_node), model.num_query_heads)
    return sp // max(
        size for size in range(1, inside + 1) if not inside % size and divides_heads(model, size)
    )
