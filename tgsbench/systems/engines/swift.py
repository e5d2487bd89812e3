"""ms-swift as it is, in an environment of its own: ZeRO (or DDP) under its own Ulysses attention."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec.structs import replace

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import EAGER
from tgsbench.systems.spec import (
    NO_BF16_ON_CPU,
    NO_DOCUMENT_BORDERS,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
)
from tgsbench.systems.zero import ZERO3

KERNELS = {"auto": "sdpa", "sdpa": "sdpa", "flash2": "flash_attn"}
"""engine.kernel -> the value of its --attn_impl."""


class SwiftOptions(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far it shards."""

    is_external: ClassVar[bool] = True
    name: str = "swift"
    zero_stage: Literal[0, 1, 2, 3] = 3
    """ZeRO stage of its DeepSpeed; 0: plain DDP without DeepSpeed."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Optimizer states, or optimizer states and parameters, in host memory."""


def _heads_do_not_divide(preset: Preset) -> bool:
    """Ranks beyond its KV heads share a sequence by a ring, which it has for flash-attn alone."""
    return preset.parallel.sp > 1 and preset.model.num_kv_heads % preset.parallel.sp != 0


ENGINE = EngineSpec(
    name="swift",
    title="ms-swift",
    what="ms-swift itself, in its own environment",
    launch=External(
        adapter="tgsbench.external.swift:ADAPTER",
        recipe=EnvironmentRecipe(
            version="4.6.0",
            requirements=(
                "torch==2.13.0",
                "ms-swift==4.6.0",
                "transformers==5.19.0",
                "deepspeed==0.19.8",
                "ninja",
            ),
            needs=("ms-swift", "torch", "transformers", "deepspeed"),
            disk_gb=2.5,
            minutes=9,
        ),
        observed="always",  # its log counts no tokens
    ),
    families=("llama",),
    options=SwiftOptions,
    limits=(
        NO_DOCUMENT_BORDERS,
        Limit(
            what="no attention kernel {preset.engine.kernel}",
            remedy="--set engine.kernel=sdpa (or flash2)",
            asked=lambda preset: preset.engine.kernel not in KERNELS,
        ),
        Limit(
            what="sp={preset.parallel.sp} does not divide its KV heads ({preset.model.num_kv_heads})",
            remedy="--set parallel.sp=1, or a divisor of the KV heads",
            asked=_heads_do_not_divide,
            listed="sp must divide the KV heads (beyond it has a ring, which was not tried)",
        ),
        NO_BF16_ON_CPU,
    ),
    unequal=(
        "logits of all labelled tokens at once at the loss (with sp, of all), where ours come in chunks",
    ),
    costs=replace(
        ZERO3, name="swift", fused_exchange=False, repeats_kv=False, whole_logits=True, traffic=EAGER
    ),
)
