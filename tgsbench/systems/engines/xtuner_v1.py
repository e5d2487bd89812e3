"""XTuner's v1 trainer as it is, in an environment of its own: FSDP2 under its Ulysses attention.

It is XTuner's main, which no package index has: the user gives a checkout or a wheel.
"""

from __future__ import annotations

from typing import ClassVar

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import EAGER, System
from tgsbench.systems.spec import (
    FULL_PACKS_ALONE,
    NO_BF16_ON_CPU,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
)

KERNELS = {"auto": "flash_attention", "flash2": "flash_attention", "flash3": "flash_attention"}
"""engine.kernel -> its attn_impl on GPUs; a CPU has its eager attention."""


class XTunerV1Options(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing beside what all engines share."""

    is_external: ClassVar[bool] = True
    name: str = "xtuner_v1"


def _lacks_kernel(preset: Preset) -> bool:
    on_cpu = preset.hardware.device == "cpu"
    return preset.engine.kernel not in KERNELS or (on_cpu and preset.engine.kernel != "auto")


def _heads_do_not_divide(preset: Preset) -> bool:
    """Whole query heads to a rank; KV heads are repeated up to sp, which must be a multiple of them."""
    shape, sp = preset.model, preset.parallel.sp
    return bool(shape.num_query_heads % sp or (shape.num_kv_heads % sp and sp % shape.num_kv_heads))


ENGINE = EngineSpec(
    name="xtuner_v1",
    title="XTuner v1",
    what="XTuner's v1 trainer itself, from your checkout or wheel, in its own environment",
    launch=External(
        adapter="tgsbench.external.xtuner_v1:ADAPTER",
        recipe=EnvironmentRecipe(
            version="0.2.0",
            source="a checkout or a wheel of XTuner's main (github.com/InternLM/xtuner, tested at b934f46)",
            # What its trainer imports, of what its main asks for; the rest is for images, RL and kernels.
            requirements=(
                "torch==2.13.0",
                "torchvision",
                "timm",
                "transformers==5.14.1",
                "mmengine==0.11.0rc2",
                "datasets<4.0.0",
                "cyclopts",
                "pydantic",
                "loguru",
                "tensorboard",
                "xxhash",
                "peft",
                "scipy",
                "sentencepiece",
                # From 3.9 on autotuning refuses keys that are no arguments, of which its kernels have some.
                "triton<3.9",
                "pillow",
                "opencv-python-headless<=4.12.0.88",
                "more-itertools",
                "imageio",
                "einops",
                # Its losses import its reinforcement learning.
                "ray",
                "httpx",
            ),
            needs=("xtuner", "torch", "transformers", "mmengine"),
            # The registry's release has the number of the main branch, and no v1.
            modules=("xtuner/v1/train/trainer.py",),
            disk_gb=3.1,
            minutes=15,
        ),
        observed="always",  # its clock leaves out data and logging
    ),
    families=("llama",),
    options=XTunerV1Options,
    limits=(
        Limit(
            what="no attention kernel {preset.engine.kernel} on this device",
            remedy="--set engine.kernel=auto",
            asked=_lacks_kernel,
            listed="on CPUs its eager attention alone, which holds S x S scores a head",
        ),
        Limit(
            what="sp={preset.parallel.sp} does not divide its heads",
            remedy="--set parallel.sp=1, or a divisor of the query heads",
            asked=_heads_do_not_divide,
        ),
        Limit(
            what="sequences of a rank go through it one by one (micro_batch={preset.training.micro_batch})",
            remedy="--set training.micro_batch=1",
            asked=lambda preset: preset.training.micro_batch > 1,
        ),
        FULL_PACKS_ALONE,
        NO_BF16_ON_CPU,
    ),
    unequal=(
        "its own draw of initial weights",
        "on a CPU its eager attention, which computes and keeps masked scores too",
        "gradients are summed over all labels of a step, where ours are means of micro-steps",
    ),
    # FSDP2 over fp32 masters, one kernel per operator, q, k and v each in an all-to-all of its own.
    costs=System(
        name="xtuner_v1",
        parameter_bytes=4,
        gradient_bytes=4,
        optimizer_bytes=8,
        copy_bytes=32.0,
        fused_exchange=False,
        traffic=EAGER,
    ),
)
