"""Shrink a preset to what this machine can run while keeping its shape."""

from __future__ import annotations

import math

import msgspec

from tgsbench.launch.preflight import LocalMachine
from tgsbench.models.registry import find_family
from tgsbench.presets.fp8 import MULTIPLE
from tgsbench.presets.validate import mesh_problems
from tgsbench.schema.preset import Device, EngineOptions, ModelShape, Parallel, Preset
from tgsbench.systems.whole_layers import with_parts_of

_HEAD_DIM = 32
_LOCAL_SEQ_LEN = 1024
_MAX_LAYERS = 2
_MAX_CHUNKS = 4
"""The last one has earlier chunks of which neither the first nor the last is its neighbour."""


def rehearsal(preset: Preset, num_ranks: int, device: Device = "cpu") -> Preset:
    """A small preset with the same head ratio, sp > 1 where it was, mask, checkpointing, accumulation = sp.

    `num_ranks` bounds the ranks; the length becomes about 1k tokens a rank. The result is marked
    `rehearsal_of` and never compared with published rows.
    """
    world = max(n for n in (1, 2, 4, 8) if n <= max(1, min(num_ranks, preset.world_size)))
    return shrunken(preset, min(world, preset.parallel.sp), world, device)


def shrunken(
    preset: Preset,
    sp: int,
    world: int,
    device: Device = "cpu",
    local_seq_len: int = _LOCAL_SEQ_LEN,
    head_dim: int = _HEAD_DIM,
    kv_heads_per_rank: int = 1,
) -> Preset:
    """The preset's shape on `world` ranks at `sp`, with at most `local_seq_len` tokens of a sequence each.

    `sp` is 1, 2, 3 or a multiple of 4.
    """
    ring = _ring(preset, sp)
    model = _small_model(preset.model, sp // ring, preset.ulysses, head_dim, kv_heads_per_rank)
    seq_len = _length(preset.workload.seq_len, sp, ring, local_seq_len)
    replace = msgspec.structs.replace
    small = replace(
        preset,
        rehearsal_of=preset.rehearsal_of or preset.name,
        model=model,
        hardware=replace(
            preset.hardware, device=device, num_gpus=world, gpus_per_node=world, gpu="", link=""
        ),
        # Not the tokenizer: its vocabulary is the real model's.
        workload=replace(preset.workload, seq_len=seq_len, corpus=_corpus(preset), concat=1, tokenizer=""),
        parallel=Parallel(sp=sp, ring=ring, shard=_shard(preset, world), ep=_ep(preset, model, world)),
        engine=_engine(preset, seq_len // sp),
        training=replace(preset.training, accumulation=min(preset.training.accumulation, 4)),
        measure=replace(
            preset.measure, steps=min(preset.measure.steps, 6), warmup=min(preset.measure.warmup, 1)
        ),
    )
    assert not mesh_problems(small), mesh_problems(small)
    return with_parts_of(preset, small)


def _engine(preset: Preset, local_seq_len: int) -> EngineOptions:
    """Without kernels of its own; in up to four chunks of the sequence where it had some."""
    plain = msgspec.structs.replace(preset.engine, kernel="auto", compile=False, liger=False)
    if (chunks := plain.sequence_chunks) == 1:
        return plain
    tokens = MULTIPLE[preset.training.fp8_recipe] if preset.linear else 1
    fewer = (n for n in range(1, min(chunks, _MAX_CHUNKS) + 1) if local_seq_len % (n * tokens) == 0)
    return msgspec.structs.replace(plain, sequence_chunks=max(fewer, default=1))


def rehearsal_on(preset: Preset, machine: LocalMachine) -> Preset:
    """The rehearsal that fills this machine: its GPUs, or its CPU cores where it has none."""
    num_gpus = len(machine.gpus)
    return rehearsal(preset, num_gpus or machine.num_cores, "cuda" if num_gpus else "cpu")


def _length(seq_len: int, sp: int, ring: int, most: int) -> int:
    """At most `most` tokens a rank; a ring cuts those of a rank into two chunks."""
    unit = 2 if ring > 1 else 1
    return sp * unit * max(1, min(seq_len // sp, most) // unit)


def _corpus(preset: Preset) -> str:
    return "pydoc" if preset.workload.corpus == "alpaca" else preset.workload.corpus


def _ring(preset: Preset, sp: int) -> int:
    """Members of a ring on `sp` ranks: all of them where there was no Ulysses beside it, else two."""
    if preset.ring == 1:
        return 1
    return sp if preset.ulysses == 1 or sp < 4 else 2


def _shard(preset: Preset, world: int) -> int:
    """Two copies where there were several."""
    return world // 2 if world > 1 and preset.shard != preset.world_size else 0


def _ep(preset: Preset, model: ModelShape, world: int) -> int:
    """At most two ranks share out the experts, so that others hold the same ones where there are more."""
    experts = model.experts
    return 1 if experts is None or experts.num % 2 or world % 2 else min(2, preset.parallel.ep)


def _small_model(
    shape: ModelShape, sp: int, real_sp: int, head_dim: int, kv_heads_per_rank: int
) -> ModelShape:
    """Same query:KV ratio and MLP ratio; KV heads stay fewer than sp where they were.

    What else a family has, experts and windows, it shrinks itself.
    """
    per_rank = min(kv_heads_per_rank, shape.num_kv_heads)
    kv_heads = max(1, sp // 2) if shape.num_kv_heads < real_sp else sp * per_rank
    ratio = math.lcm(shape.num_query_heads // shape.num_kv_heads, max(1, sp // kv_heads))
    heads = kv_heads * ratio
    hidden = heads * head_dim
    intermediate = -(-hidden * shape.intermediate_size // shape.hidden_size // 32) * 32
    small = msgspec.structs.replace(
        shape,
        num_layers=min(shape.num_layers, _MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_query_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=min(shape.vocab_size, 2048),
    )
    return find_family(shape.family).shrink(shape, small)
