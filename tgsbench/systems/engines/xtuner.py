"""XTuner as it is, in an environment of its own; trains on ZeRO-3 under its own Ulysses attention."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from msgspec.structs import replace

from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import EAGER
from tgsbench.systems.log_lines import (
    INDEX,
    NUMBER,
    LoggedStep,
    figure_after,
    finite,
    json_lines,
    text_lines,
    to_float,
)
from tgsbench.systems.spec import (
    NO_BF16_ON_CPU,
    NO_LIGER,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
    options_of,
)
from tgsbench.systems.zero import ZERO3, ZeroOptions


class XTunerOptions(ZeroOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """XTuner's ZeRO configuration, and whether its checks are bypassed on CPU ranks."""

    is_external: ClassVar[bool] = True
    name: str = "xtuner"
    cpu_shim: bool = False
    """CPU ranks: answer its checks for a GPU and flash-attn."""


_XTUNER = rf"Iter\(train\)\s*\[\s*{INDEX}/\d+\].*?\btime: {NUMBER}.*?tokens_per_sec: {NUMBER}"
"""Compiled when a log is first read: most starts import this file for what XTuner costs."""


def xtuner_steps(text: str, num_gpus: int = 0, seq_len: int = 0) -> list[LoggedStep]:
    """XTuner's iterations (micro-batches) from scalars.json or the text log of mmengine."""
    found = [_xtuner_scalar(row) for row in json_lines(text) if "tokens_per_sec" in row]
    found += [_xtuner_line(match, line) for line in text_lines(text) if (match := re.search(_XTUNER, line))]
    return [step for step in found if step is not None]


def _xtuner_scalar(row: dict[str, Any]) -> LoggedStep | None:
    tgs, step_s = finite(row["tokens_per_sec"]), finite(row.get("time"))
    if tgs is None or step_s is None:
        return None
    memory_mib = finite(row.get("memory"))
    return LoggedStep(
        iteration=int(finite(row.get("iter")) or finite(row.get("step")) or 0),
        tgs=tgs,
        step_s=step_s,
        tflops=finite(row.get("tflops")),
        loss=finite(row.get("loss")),
        mem_gib=memory_mib / 1024 if memory_mib else None,
    )


def _xtuner_line(match: re.Match[str], line: str) -> LoggedStep:
    memory_mib = figure_after(r"\bmemory: ", line)
    return LoggedStep(
        iteration=int(match[1]),
        tgs=to_float(match[3]),
        step_s=to_float(match[2]),
        tflops=figure_after(r"\btflops: ", line),
        loss=figure_after(r"\bloss: ", line),
        mem_gib=memory_mib / 1024 if memory_mib else None,
    )


def _on_cpu(preset: Preset) -> bool:
    return preset.hardware.device == "cpu"


ENGINE = EngineSpec(
    name="xtuner",
    title="XTuner",
    what="XTuner itself, in its own environment",
    launch=External(
        adapter="tgsbench.external.xtuner:ADAPTER",
        recipe=EnvironmentRecipe(
            version="0.2.0",
            # mmengine reads pkg_resources, which setuptools dropped with 81.
            requirements=(
                "torch",
                "torchvision",
                "xtuner==0.2.0",
                "transformers==4.48.0",
                "mmengine==0.10.6",
                # mmengine imports deepspeed.runtime.fp16.onebit, which 0.19 dropped.
                "deepspeed<0.19",
                "ninja",
                "setuptools<81",
            ),
            needs=("xtuner", "torch", "transformers", "mmengine", "deepspeed"),
            disk_gb=2.3,
            below_python=(3, 13),
        ),
    ),
    families=("llama",),
    options=XTunerOptions,
    limits=(
        Limit(
            what="no CPU training without a shim",
            remedy="--set engine.cpu_shim=true",
            asked=lambda preset: _on_cpu(preset) and not options_of(preset, XTunerOptions).cpu_shim,
            listed="on a CPU only through tgsbench's shim",
        ),
        NO_BF16_ON_CPU,
        Limit(
            what="no document mask without flash-attn",
            remedy="--set workload.document_mask=false",
            asked=lambda preset: _on_cpu(preset) and preset.workload.document_mask,
        ),
        NO_LIGER,
        Limit(
            what="no choice of an attention kernel (engine.kernel={preset.engine.kernel})",
            remedy="--set engine.kernel=auto",
            asked=lambda preset: preset.engine.kernel != "auto",
        ),
        Limit(
            what="a document mask only with micro-batch 1",
            remedy="--set training.micro_batch=1",
            asked=lambda preset: preset.workload.document_mask and preset.training.micro_batch > 1,
        ),
    ),
    # Of 0.1.20, whose rows were published: eager norms, three all-to-alls in and one out, whole logits.
    unequal=(
        "logits of a whole sequence at the loss, where ours come in chunks",
        "labels are shifted inside a rank's piece: sp - 1 targets of a sequence are lost",
    ),
    costs=replace(
        ZERO3,
        name="xtuner",
        fused_exchange=False,
        repeats_kv=True,
        whole_logits=True,
        measured=True,
        product_share=1.1028,
        step_overhead_s=0.017,
        traffic=replace(EAGER, exchange=(8.0, 8.0)),
    ),
    read_log=xtuner_steps,
)
