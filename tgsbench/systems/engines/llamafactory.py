"""LLaMA-Factory as it is, in an environment of its own.

Its usual trainer shards by DeepSpeed's ZeRO and has no sequence parallelism; its v1 trainer (USE_V1=1) shards
by FSDP2, and shares a sequence by Ulysses through flash-attn.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

from msgspec.structs import replace

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import EAGER, System
from tgsbench.systems.log_lines import LoggedStep, finite, json_lines
from tgsbench.systems.spec import (
    FULL_PACKS_ALONE,
    NO_BF16_ON_CPU,
    NO_LIGER,
    EngineSpec,
    EnvironmentRecipe,
    External,
    Limit,
    options_of,
)
from tgsbench.systems.zero import ZERO3, ZeroOptions


class LlamaFactoryOptions(ZeroOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """LLaMA-Factory's ZeRO configuration, and which of its trainers runs."""

    is_external: ClassVar[bool] = True
    name: str = "llamafactory"
    use_v1: bool = False
    """Its v1 trainer, which its command takes with USE_V1=1."""


def _v1_where_asked(options: EngineOptions) -> EngineSpec | None:
    assert isinstance(options, LlamaFactoryOptions)
    return _V1 if options.use_v1 else None


def _shares_without_flash_attn(preset: Preset) -> bool:
    """Its Ulysses replaces flash-attn's function and no other kernel's, and flash-attn runs on GPUs."""
    on_cpu, kernel = preset.hardware.device == "cpu", preset.engine.kernel
    return preset.parallel.sp > 1 and (on_cpu or kernel not in ("auto", "flash2"))


def _lacks_v1_kernel(preset: Preset) -> bool:
    on_cpu, kernel = preset.hardware.device == "cpu", preset.engine.kernel
    return kernel not in ("auto", "sdpa", "flash2") or (on_cpu and kernel == "flash2")


def llamafactory_steps(text: str, num_gpus: int, seq_len: int = 0) -> list[LoggedStep]:
    """LLaMA-Factory's optimizer steps from trainer_log.jsonl.

    Its `throughput` is global, cumulative and includes warm-up: t = total_tokens / throughput, so a step's
    time is the difference of two rows. The first row has no difference; the last (no loss) is dropped.
    """
    rows = [row for row in json_lines(text) if "loss" in row]
    clock = [(row, *counted) for row in rows if (counted := _llamafactory_clock(row)) is not None]
    steps = []
    for (_, tokens_before, t_before), (row, tokens, t) in pairwise(clock):
        step_s, done = t - t_before, tokens - tokens_before
        if step_s > 0 and done > 0:
            steps.append(
                LoggedStep(
                    iteration=int(finite(row.get("current_steps")) or 0),
                    tgs=done / step_s / num_gpus if num_gpus else None,
                    step_s=step_s,
                    tokens_all_gpus=done,
                    loss=finite(row.get("loss")),
                )
            )
    return steps


def _llamafactory_clock(row: dict[str, Any]) -> tuple[float, float] | None:
    """Tokens and seconds since the run began."""
    tokens, throughput = finite(row.get("total_tokens")), finite(row.get("throughput"))
    if tokens is None or not throughput or not math.isfinite(tokens / throughput):
        return None
    return tokens, tokens / throughput


_LAUNCH = External(
    adapter="tgsbench.external.llamafactory:ADAPTER",
    recipe=EnvironmentRecipe(
        version="0.9.5",
        # transformers 5.6.0, the newest that this release allows, cannot call flash-attn: it converts sinks
        # that are not there. datasets 4.0 is the newest too.
        requirements=(
            "torch",
            "torchvision",
            "llamafactory==0.9.5",
            "transformers!=5.6.0",
            "deepspeed<=0.18.4",
            "ninja",
        ),
        needs=("llamafactory", "torch", "transformers", "deepspeed"),
        disk_gb=2.3,
    ),
)
ENGINE = EngineSpec(
    name="llamafactory",
    title="LLaMA-Factory",
    what="LLaMA-Factory itself, in its own environment",
    launch=_LAUNCH,
    families=("llama",),
    options=LlamaFactoryOptions,
    limits=(
        Limit(
            what="it tokenizes text, random tokens have none",
            remedy="--set workload.corpus=pydoc",
            asked=lambda preset: preset.workload.corpus == "lengths",
        ),
        Limit(
            what="it is given a tokenizer trained on the corpus, and no other",
            remedy="--set workload.tokenizer=, and --engine fsdp2 for one of your own",
            asked=lambda preset: bool(preset.workload.tokenizer),
        ),
        Limit(
            what="no sequence parallelism (sp={preset.parallel.sp})",
            remedy="--set parallel.sp=1, or on GPUs its v1 trainer: --set engine.use_v1=true",
            asked=lambda preset: preset.parallel.sp > 1,
            listed="no sequence parallelism but in its v1 trainer (engine.use_v1), on GPUs with flash-attn",
        ),
        NO_BF16_ON_CPU,
        Limit(
            what="no kernel {preset.engine.kernel}",
            remedy="--set engine.kernel=sdpa (or flash2)",
            asked=lambda preset: preset.engine.kernel not in ("auto", "sdpa", "flash2"),
        ),
        Limit(listed="no document mask in its packs without flash-attn"),
    ),
    unequal=(
        "logits of a whole sequence at the loss, where ours come in chunks",
        "packs of its own making, of the same documents by the same tokenizer; their padding is subtracted",
    ),
    costs=replace(
        ZERO3,
        name="llamafactory",
        whole_logits=True,
        measured=True,
        product_share=0.9189,
        step_overhead_s=0.030,
        sequence_parallel=False,
    ),
    read_log=llamafactory_steps,
    log_note="LLaMA-Factory counts padding as tokens: its real TGS is lower by the padded share",
    another_trainer=_v1_where_asked,
)
_V1 = replace(
    ENGINE,
    launch=replace(_LAUNCH, adapter="tgsbench.external.llamafactory_v1:ADAPTER", observed="always"),
    limits=(
        Limit(
            what="its Ulysses runs through flash-attn alone, on GPUs (sp={preset.parallel.sp})",
            remedy="--set parallel.sp=1, or on GPUs --set engine.kernel=flash2",
            asked=_shares_without_flash_attn,
        ),
        Limit(
            what="its Ulysses shares out whole KV heads (sp={preset.parallel.sp})",
            remedy="--set parallel.sp=1, or a divisor of the KV heads",
            asked=lambda preset: bool(preset.model.num_kv_heads % preset.parallel.sp),
        ),
        Limit(
            what="no attention kernel {preset.engine.kernel} on this device",
            remedy="--set engine.kernel=auto",
            asked=_lacks_v1_kernel,
        ),
        Limit(
            what="a document mask in one pack at a time (micro_batch={preset.training.micro_batch})",
            remedy="--set training.micro_batch=1",
            asked=lambda preset: preset.workload.document_mask and preset.training.micro_batch > 1,
        ),
        Limit(
            what="it shards everything by FSDP2 (zero_stage={preset.engine.zero_stage})",
            remedy="--set engine.zero_stage=3",
            asked=lambda preset: options_of(preset, LlamaFactoryOptions).zero_stage != 3,
        ),
        Limit(
            what="it keeps parameters and optimizer states in host memory together, or neither",
            remedy="--set engine.offload=all (or none)",
            asked=lambda preset: options_of(preset, LlamaFactoryOptions).offload == "optimizer",
        ),
        FULL_PACKS_ALONE,
        NO_LIGER,
        NO_BF16_ON_CPU,
    ),
    unequal=(
        "logits of a whole sequence at the loss, where ours come in chunks",
        "its own draw of initial weights, and our packs in an order that it draws",
        "its model scores labels once more in every micro-step, for a loss that nobody uses",
        "gradients are summed over all labels of a step, where ours are means of micro-steps",
    ),
    # FSDP2 over fp32 masters, one kernel per operator, q, k and v each in an all-to-all of its own.
    costs=System(
        name="llamafactory_v1",
        parameter_bytes=4,
        gradient_bytes=4,
        optimizer_bytes=8,
        copy_bytes=32.0,
        fused_exchange=False,
        whole_logits=True,
        traffic=EAGER,
    ),
    read_log=None,
)
