"""What one GPU does in a step, as numbers: shapes, lengths, mesh, checkpoint mode, and by which system."""

from __future__ import annotations

import math
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.models.family import Dims, ModelFamily
from tgsbench.models.registry import find_family
from tgsbench.planner.lengths import attended_length
from tgsbench.schema.preset import Checkpointing, ModelShape, Preset
from tgsbench.systems.costs import System
from tgsbench.systems.kv_hops import kv_nodes
from tgsbench.systems.registry import system_of
from tgsbench.systems.ring_steps import met_steps
from tgsbench.systems.whole_layers import head_parts, runs_whole_layers


class StepWorkload(Struct, frozen=True, kw_only=True):
    """One rank's share of an optimizer step."""

    dims: Dims
    system: System
    """The training system that does it."""
    seq_len: int
    attended_len: float
    """Length that attention sees per token: seq_len, or Σ len² / Σ len under a document mask."""
    maybe_longer: float = 1.0
    """How many times as long that may be, where nobody measured the documents."""
    sp: int = 1
    ring: int = 1
    """Members of the ring that the other sp / ring ranks, those of Ulysses, are repeated over."""
    ring_steps: float = 0.0
    """Members whose keys a layer needs, in the mean of layers with windows and without; 0: all others."""
    ep: int = 1
    """GPUs, neighbours, that share out the experts of each layer."""
    world: int = 1
    gpus_per_node: int = 8
    micro_batch: int = 1
    accumulation: int = 1
    checkpointing: Checkpointing = "full"
    zero_stage: int = 3
    shard_ranks: int = 0
    """GPUs that share one copy of what is sharded (HSDP, ZeRO-1 in groups); 0: all of them."""
    regather: bool = True
    """Parameters are gathered again for the backward (ZeRO-3); False: kept from the forward."""
    offload: str = "none"
    activation_offload: bool = False
    tiled_mlp: bool = False
    fused_ops: bool = False
    """Norms, rotary embedding and gated activation run as one kernel each (Liger, torch.compile)."""
    whole_layers: bool = False
    """Each decoder layer is one function with one flat parameter."""
    head_parts: int = 1
    """Parts of a rank's heads in a whole layer; attention of one hides the exchanges of the other."""
    sequence_chunks: int = 1
    """Chunks of the sequence that a layer takes one after the other."""
    earlier_chunks: float = 0.0
    """Of those before it whose keys a chunk meets, the mean."""
    kv_nodes: int = 1
    """Nodes that each get a KV head once and copy it inside; 1: it goes straight to every rank."""
    loss_chunk_tokens: int = 0
    compute_bytes: int = 2
    fp8: bool = False
    kernel: str = "flash2"
    on_cpu: bool = False

    @property
    def hops(self) -> float:
        """Messages of keys that a member gets in a layer's forward."""
        return self.ring_steps or self.ring - 1.0

    @property
    def local_tokens(self) -> int:
        """Tokens of one micro-step on this rank."""
        return self.micro_batch * self.seq_len // self.sp

    @property
    def ulysses(self) -> int:
        """Ranks that trade sequence for heads in all-to-alls."""
        return self.sp // self.ring

    @property
    def sharing_ranks(self) -> int:
        """GPUs that share one copy of what is sharded."""
        return self.shard_ranks or self.world

    @property
    def one_pool(self) -> bool:
        """Do buffers of collectives lie in memory of the stream that computes?"""
        shares_out = self.ep > 1 or self.sharing_ranks < self.world
        return self.system.one_pool and not (shares_out or self.on_cpu)

    @property
    def lets_inputs_go(self) -> bool:
        """Does a layer's backward hold its input, which waits on the host, only where it reads it?"""
        of_full = self.checkpointing == "full" or self.sequence_chunks > 1
        return self.whole_layers and self.activation_offload and of_full

    @property
    def shares_kv(self) -> bool:
        """Has a rank one KV head, which all parts of its query heads attend to?"""
        return self.ulysses > 1 and self.dims.kv_heads <= self.ulysses

    @property
    def largest_part(self) -> float:
        """Share of a rank's query heads in the largest part of them: 3/5 of 5 in two parts."""
        heads = self.dims.query_heads // self.ulysses
        return -(-heads // self.head_parts) / heads

    @property
    def gradients_away(self) -> bool:
        """Do gradients lie in host memory once they are reduced?"""
        return self.offload == "all" or (self.offload != "none" and not self.system.streams_states)

    @property
    def routed_bytes(self) -> float:
        """Bytes of the rows that go to experts from one layer in a micro-step, a row for each expert."""
        return float(self.local_tokens) * self.dims.routed * self.compute_bytes

    @property
    def tokens_per_gpu(self) -> int:
        """Tokens of one optimizer step divided by the GPUs."""
        return self.local_tokens * self.accumulation

    @property
    def kv_heads_sent(self) -> int:
        """KV heads in the all-to-all when they are repeated only up to the Ulysses ranks."""
        return max(self.dims.kv_heads, self.ulysses)


def dims_of(shape: ModelShape) -> Dims:
    """Widths of a preset's model, as its family says; raises TgsError when nobody knows the family."""
    return _dims_of(find_family(shape.family), shape)


def _ring_steps(preset: Preset) -> float:
    if preset.ring == 1 or not preset.model.window:
        return 0.0
    windows = find_family(preset.model.family).ring_windows(preset.model)
    met = [len(met_steps(preset.workload.seq_len, preset.ring, window)) for window in windows]
    return sum(met) / len(met)


def _earlier_chunks(preset: Preset, attended_len: float) -> float:
    """Windows end what a chunk sees, and so do documents, of which their mean stands for all."""
    chunks, seq_len = preset.engine.sequence_chunks, preset.workload.seq_len
    if chunks == 1:
        return 0.0
    size, met = seq_len / chunks, 0.0
    windows = find_family(preset.model.family).ring_windows(preset.model)
    for window in windows:
        most = math.ceil((window - 1) / size) if window else chunks
        reach = most if attended_len >= seq_len else min(float(most), attended_len / size)
        whole = min(int(reach), chunks - 1)  # as many chunks see all before them, later ones no further
        met += whole * (whole + 1) / 2 + (chunks - 1 - whole) * reach
    return met / (chunks * len(windows))


@lru_cache(maxsize=64)
def _dims_of(family: ModelFamily, shape: ModelShape) -> Dims:
    """A search asks for one shape's widths thousands of times."""
    return family.dims(shape)


def work_of(
    preset: Preset, kernel: str, *, system: System | None = None, on_cpu: bool = False
) -> StepWorkload:
    """What a preset asks of each rank; `kernel` names the attention speed to plan with.

    `system` replaces the preset's engine. Raises TgsError when nobody knows that engine's costs, and for a
    file of lengths that cannot be read.
    """
    seq_len, engine = preset.workload.seq_len, preset.engine
    attended = attended_length(preset.workload)
    whole_layers = runs_whole_layers(preset) and system in (None, system_of(engine))
    system = system or system_of(engine)
    if preset.training.reduce_dtype == "bfloat16":
        system = replace(system, reduce_bytes=2)
    return StepWorkload(
        dims=dims_of(preset.model),
        system=system,
        seq_len=seq_len,
        attended_len=attended.tokens,
        maybe_longer=attended.longer,
        sp=preset.parallel.sp,
        ring=preset.ring,
        ring_steps=_ring_steps(preset),
        shard_ranks=preset.parallel.shard,
        ep=preset.parallel.ep,
        world=preset.world_size,
        gpus_per_node=preset.hardware.gpus_per_node,
        micro_batch=preset.training.micro_batch,
        accumulation=preset.accumulation,
        checkpointing=preset.training.checkpointing,
        zero_stage=engine.zero_stage,
        offload=engine.offload,
        activation_offload=engine.activation_offload,
        tiled_mlp=engine.tiled_mlp,
        fused_ops=engine.liger or engine.compile,
        whole_layers=whole_layers,
        head_parts=head_parts(preset) if whole_layers else 1,
        sequence_chunks=engine.sequence_chunks,
        earlier_chunks=_earlier_chunks(preset, attended.tokens),
        kv_nodes=kv_nodes(preset) if whole_layers else 1,
        loss_chunk_tokens=engine.loss_chunk_tokens,
        compute_bytes=2 if preset.training.compute_dtype == "bfloat16" else 4,
        fp8=bool(preset.linear),
        kernel=kernel,
        on_cpu=on_cpu,
    )
