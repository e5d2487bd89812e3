"""DeepSpeed ZeRO 1, 2, 3 in our ranks, under its own Ulysses attention (ALST) or tgsbench's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from tgsbench.schema.preset import Attention, Preset
from tgsbench.systems.costs import OWN
from tgsbench.systems.engines import fsdp2
from tgsbench.systems.spec import TRAIN, AdvisedChange, EngineSpec, Native, Package, options_of
from tgsbench.systems.zero import ON_THE_HOST, ZERO3, ZeroOptions, variants_of


class DeepSpeedOptions(ZeroOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DeepSpeed's switches beside those of every engine."""

    name: str = "deepspeed"
    data_adapter: bool = False
    """Deal and shard packs by DeepSpeed's UlyssesSPDataLoaderAdapter."""
    tiled_loss: bool = False
    """Loss by ALST's sequence_tiled_compute in tiles of loss_chunk_tokens."""

    @property
    def attention_in_use(self) -> Attention:
        """ALST unless another is named."""
        return "alst" if self.attention == "auto" else self.attention

    def on_one_rank(self) -> Self:
        """The same without ALST's data adapter, which spreads a sequence over several ranks."""
        return replace(self, data_adapter=False)


def _rules(preset: Preset) -> list[str]:
    options, problems = options_of(preset, DeepSpeedOptions), []
    if options.compile:
        problems.append(
            f"engine.compile=true: ZeRO's hooks break compiled layers; use --engine {fsdp2.ENGINE.name}"
        )
    if options.liger and options.tiled_loss:
        problems.append("engine.liger=true and engine.tiled_loss=true: a loss has one kernel; drop one")
    return problems


def _machine_limits() -> list[str]:
    """DeepSpeed builds an operator when it first runs on a CPU."""
    import shutil

    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((beside, os.environ.get("PATH", "")))
    absent = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=path) is None]
    return [f"on a CPU it builds an operator at first use and needs {', '.join(absent)}"] if absent else []


_SHARDING = ((3, "none"), (3, "optimizer"), (3, "all"), (2, "none"), (2, "optimizer"), (1, "none"))

ENGINE = EngineSpec(
    name="deepspeed",
    title="DeepSpeed",
    what="DeepSpeed ZeRO with its own Ulysses attention (ALST), or tgsbench's",
    launch=Native(
        build="tgsbench.training.engines.deepspeed.entry:build",
        make_batches="tgsbench.training.engines.deepspeed.entry:make_batches",
        preload="tgsbench.training.engines.deepspeed.entry:preload",
    ),
    families=("llama",),
    options=DeepSpeedOptions,
    packages=(*TRAIN, Package("deepspeed", "deepspeed")),
    rules=_rules,
    machine_limits=_machine_limits,
    # Gradients are summed in fp32, and norms and MLPs are this project's, as in fsdp2.
    costs=replace(
        ZERO3,
        name="deepspeed",
        fused_exchange=False,
        gradient_bytes=4,
        reduce_bytes=4,
        keeps_live=True,
        early_stop=True,
        norm_units=4.0,
        norm_keeps_checkpoint=True,
        mlp_units=3.0,
        mlp_gradients=1.0,
        traffic=OWN,
    ),
    variants=variants_of(_SHARDING),
    advice=(
        *ON_THE_HOST,
        AdvisedChange(
            switches={"offload": "optimizer"},
            effort=23,
            what="DeepSpeed with optimizer states in host memory",
            from_others=True,
        ),
    ),
)
