"""PyTorch FSDP2 with tgsbench's own sequence parallelism: the default engine."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import msgspec

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import OWN, System
from tgsbench.systems.spec import TRAIN, EngineSpec, Native
from tgsbench.systems.zero import ON_THE_HOST, variants_of


class Fsdp2Options(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far it shards."""

    has_ring: ClassVar[bool] = True
    has_copies: ClassVar[bool] = True
    has_expert_parallel: ClassVar[bool] = True
    has_fp8: ClassVar[bool] = True
    has_sequence_chunks: ClassVar[bool] = True

    name: str = "fsdp2"
    zero_stage: Literal[1, 2, 3] = 3
    """3: parameters are gathered for each pass; 2: once for all micro-steps of an optimizer step; 1: whole
    gradients are summed over the micro-steps, and reduced once."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """AdamW's moments in host memory, or with fp32 parameters and gradients; the step runs on the device."""
    head_parts: Literal[0, 1, 2] = 0
    """Parts of a rank's heads whose attention runs one after the other, so that all-to-alls hide behind it;
    0: two where what is sent is large enough to be worth it."""
    sequence_chunks: int = 1
    """Chunks of the sequence that a layer takes one after the other, so that what it computes exists for one
    of them alone; keys and values of earlier ones come from host memory (FPDT). 1: the whole sequence."""
    kv_hops: Literal[0, 1, 2] = 0
    """Where Ulysses ranks of several nodes need copies of a KV head: 1: it goes straight to each; 2: once to
    every node, and inside it to each; 0: two where that can be, since fewer bytes pass between nodes."""

    def on_one_rank(self) -> Self:
        """Without parts of heads, hops and chunks: a yardstick of what they change."""
        return msgspec.structs.replace(self, head_parts=0, sequence_chunks=1, kv_hops=0)


def _rules(preset: Preset) -> list[str]:
    if preset.engine.attention == "alst":
        return ['engine.attention="alst" is DeepSpeed\'s; use --engine deepspeed, or "native"']
    return []


_SHARDING = ((3, "none"), (3, "optimizer"), (3, "all"), (2, "none"))

ENGINE = EngineSpec(
    name="fsdp2",
    title="FSDP2",
    what="PyTorch FSDP2 with tgsbench's fused Ulysses all-to-all",
    launch=Native(build="tgsbench.training.engines.fsdp2:build"),
    options=Fsdp2Options,
    packages=TRAIN,
    rules=_rules,
    # fp32 shards, bf16 gathers, fp32 reduce-scatter, expandable segments, norms that keep their input alone
    # and a SwiGLU that keeps gate and up.
    costs=System(
        name="fsdp2",
        parameter_bytes=4,
        shards_masters=True,
        regathers_embedding=False,
        gradient_bytes=4,
        optimizer_bytes=8,
        streams_states=True,
        copy_bytes=32.0,
        early_stop=True,
        norm_units=4.0,
        norm_keeps_checkpoint=True,
        seen_on_allocator=True,
        mlp_units=3.0,
        mlp_gradients=1.0,
        # Presets in one pool on a virtual GPU, torch 2.13: 0.01 to 0.21 of what comes and goes, median 0.08.
        # With 0.06 to 0.15 all but two are within 6 %.
        allocator_share=0.1,
        one_pool=True,
        # Where there are more, reserved over allocated on 32 GPUs at 8k: 54.30 over 43.51 GiB
        # for 856M weights a layer, 32.40 over 24.97 for 558M, torch's own allocator on a virtual A100.
        pool_bytes=13.4,
        mlp_tile_tokens=8192,
        mlp_tile_again=2 / 3,
        traffic=OWN,
    ),
    variants=variants_of(_SHARDING),
    advice=ON_THE_HOST,
)
