"""TRL's SFTTrainer as it is, in an environment of its own: ZeRO under accelerate's sequence parallelism."""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import EAGER
from tgsbench.systems.spec import NO_BF16_ON_CPU, EngineSpec, EnvironmentRecipe, External, Limit
from tgsbench.systems.zero import ZERO3, ZeroOptions

KERNELS = {"auto": "sdpa", "sdpa": "sdpa", "flash2": "flash_attention_2", "flash3": "flash_attention_3"}
"""Ours -> the name that transformers gives to an attention."""


class TrlOptions(ZeroOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its ZeRO configuration."""

    is_external: ClassVar[bool] = True
    name: str = "trl"


def _masks_without_varlen(preset: Preset) -> bool:
    """Packed documents are kept apart by their positions alone, which only flash-attn's kernels read."""
    return preset.workload.document_mask and not KERNELS.get(preset.engine.kernel, "").startswith("flash")


ENGINE = EngineSpec(
    name="trl",
    title="TRL",
    what="TRL's SFTTrainer itself, in its own environment",
    launch=External(
        adapter="tgsbench.external.trl:ADAPTER",
        recipe=EnvironmentRecipe(
            version="1.16.0",
            requirements=(
                "torch",
                "trl==1.16.0",
                "transformers==5.24.0",
                "accelerate==1.15.0",
                "deepspeed==0.19.8",
                "ninja",
            ),
            needs=("trl", "torch", "transformers", "accelerate", "deepspeed"),
            disk_gb=1.5,
            minutes=2,
        ),
        observed="never",
    ),
    options=TrlOptions,
    limits=(
        Limit(
            what="no document mask with the attention {preset.engine.kernel}",
            remedy="--set engine.kernel=flash2, or --set workload.document_mask=false",
            asked=_masks_without_varlen,
            listed="a document mask only with flash-attn",
        ),
        Limit(
            what="no attention kernel {preset.engine.kernel}",
            remedy="--set engine.kernel=sdpa (or flash2, flash3)",
            asked=lambda preset: preset.engine.kernel not in KERNELS,
        ),
        NO_BF16_ON_CPU,
    ),
    unequal=("logits of up to 32,768 labelled tokens at once at the loss, and their entropy beside it",),
    costs=replace(ZERO3, name="trl", fused_exchange=False, repeats_kv=True, whole_logits=True, traffic=EAGER),
)
