"""Megatron-Bridge as it is, on GPUs, in an environment of its own: ZeRO-1 under context parallelism."""

from __future__ import annotations

from typing import ClassVar, Literal

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import FUSED, System
from tgsbench.systems.spec import (
    FULL_PACKS_ALONE,
    NO_DOCUMENT_BORDERS,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
)

KERNELS = {"auto": "auto", "cudnn": "fused", "flash2": "flash"}
"""engine.kernel -> Megatron's name of an attention backend of Transformer Engine."""


class MegatronBridgeOptions(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the ranks of a sequence share it."""

    is_external: ClassVar[bool] = True
    name: str = "megatron_bridge"
    cp_comm_type: Literal["a2a", "p2p", "all_gather"] = "a2a"
    """Heads for pieces by all-to-alls, keys and values round a ring, or gathered."""

    @property
    def zero_stage(self) -> int:
        """Its distributed optimizer shards optimizer states alone."""
        return 1


def _on_cpu(preset: Preset) -> bool:
    return preset.hardware.device == "cpu"


def _heads_do_not_divide(preset: Preset) -> bool:
    engine, shape, sp = preset.engine, preset.model, preset.parallel.sp
    by_heads = isinstance(engine, MegatronBridgeOptions) and engine.cp_comm_type == "a2a"
    return by_heads and bool(shape.num_query_heads % sp or shape.num_kv_heads % sp)


ENGINE = EngineSpec(
    name="megatron_bridge",
    title="Megatron-Bridge",
    what="Megatron-Bridge itself, on NVIDIA GPUs, in its own environment",
    launch=External(
        adapter="tgsbench.external.megatron_bridge:ADAPTER",
        recipe=EnvironmentRecipe(
            version="0.3.1",
            requirements=("torch", "megatron-bridge==0.3.1"),
            needs=("megatron-bridge", "megatron-core", "transformer-engine", "torch"),
        ),
        not_on_virtual_gpu="its layers are Transformer Engine's, which reaches CUDA, cuDNN and cuBLAS by "
        "libraries of its own, and none of these is answered there",
    ),
    families=("llama",),
    options=MegatronBridgeOptions,
    limits=(
        Limit(
            what="no CPU training: its configuration itself imports Transformer Engine, which needs CUDA",
            remedy="run it on NVIDIA GPUs (on a CPU: --engine fsdp2)",
            asked=_on_cpu,
            listed="NVIDIA GPUs alone; its configuration is checked against its source, no run was seen yet",
        ),
        NO_DOCUMENT_BORDERS,
        FULL_PACKS_ALONE,
        Limit(
            what="sp={preset.parallel.sp} does not divide its heads",
            remedy="--set engine.cp_comm_type=p2p, or a divisor of the KV heads",
            asked=_heads_do_not_divide,
            listed="sp must divide the KV heads under engine.cp_comm_type=a2a",
        ),
        Limit(
            what="no attention kernel {preset.engine.kernel}",
            remedy="--set engine.kernel=auto (or cudnn, flash2)",
            asked=lambda preset: preset.engine.kernel not in KERNELS,
        ),
        Limit(
            what="Liger's kernels have no place beside Transformer Engine's",
            remedy="--set engine.liger=false",
            asked=lambda preset: preset.engine.liger,
        ),
    ),
    unequal=(
        "its own draw of initial weights; ZeRO-1: every rank holds whole weights and gradients",
        "Transformer Engine's fused layers and its own fused cross entropy over whole logits",
    ),
    # bf16 weights, fp32 gradients in buffers for good; the distributed optimizer shards masters and moments.
    costs=System(
        name="megatron_bridge",
        parameter_bytes=2,
        gradient_bytes=4,
        optimizer_bytes=12,
        gradients_resident=True,
        whole_logits=True,
        fused_exchange=False,
        traffic=FUSED,
    ),
)
