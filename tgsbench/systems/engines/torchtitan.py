"""torchtitan as it is, in an environment of its own: FSDP2, context or tensor parallelism on GPUs."""

from __future__ import annotations

from typing import ClassVar, Literal

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.spec import (
    FULL_PACKS_ALONE,
    NO_BF16_ON_CPU,
    NO_LIGER,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
)
from tgsbench.systems.stacks import TORCHTITAN


class TorchtitanOptions(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the ranks of a sequence share it."""

    is_external: ClassVar[bool] = True
    name: str = "torchtitan"
    sp_by: Literal["context", "tensor"] = "context"
    """Ring attention over the sequence, or tensor parallelism with its sequence-parallel norms."""


def _shares_on_cpu(preset: Preset) -> bool:
    return preset.hardware.device == "cpu" and preset.parallel.sp > 1


ENGINE = EngineSpec(
    name="torchtitan",
    title="torchtitan",
    what="torchtitan itself, in its own environment",
    launch=External(
        adapter="tgsbench.external.torchtitan:ADAPTER",
        recipe=EnvironmentRecipe(
            version="0.3.0",
            requirements=("torch==2.13.0", "torchtitan==0.3.0", "triton"),
            needs=("torchtitan", "torch", "triton"),
            disk_gb=2.5,
            minutes=2,
        ),
        observed="always",  # its log has speeds in whole tokens alone
    ),
    families=("llama",),
    options=TorchtitanOptions,
    limits=(
        Limit(
            what="no sequence shared by CPU ranks (sp={preset.parallel.sp}): its ring attention needs CUDA",
            remedy="--set parallel.sp=1",
            asked=_shares_on_cpu,
            listed="on CPUs data parallelism alone, with its flex attention replaced by PyTorch's own",
        ),
        Limit(
            what="no document mask on a CPU, where its flex attention has no backward",
            remedy="--set workload.document_mask=false",
            asked=lambda preset: preset.hardware.device == "cpu" and preset.workload.document_mask,
        ),
        Limit(
            what="no attention kernel {preset.engine.kernel}",
            remedy="--set engine.kernel=auto",
            asked=lambda preset: preset.engine.kernel not in ("auto", "flex"),
        ),
        FULL_PACKS_ALONE,
        NO_LIGER,
        NO_BF16_ON_CPU,
    ),
    unequal=(
        "its own draw of initial weights; q, k and v in one product",
        "FSDP2 with its own wrapping; on a CPU PyTorch's attention stands in for its flex attention",
    ),
    costs=TORCHTITAN,
)
