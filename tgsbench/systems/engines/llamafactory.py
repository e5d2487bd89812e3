"""LLaMA-Factory as it is, in an environment of its own; trains on ZeRO-3 without sequence parallelism."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

from msgspec.structs import replace

from tgsbench.systems.log_lines import LoggedStep, finite, json_lines
from tgsbench.systems.spec import NO_BF16_ON_CPU, EngineSpec, EnvironmentRecipe, External, Limit
from tgsbench.systems.zero import ZERO3, ZeroOptions


class LlamaFactoryOptions(ZeroOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """LLaMA-Factory's ZeRO configuration."""

    is_external: ClassVar[bool] = True
    name: str = "llamafactory"


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


ENGINE = EngineSpec(
    name="llamafactory",
    title="LLaMA-Factory",
    what="LLaMA-Factory itself, in its own environment",
    launch=External(
        adapter="tgsbench.external.llamafactory:ADAPTER",
        recipe=EnvironmentRecipe(
            version="0.9.5",
            # transformers 5.6 and datasets 4.0 are the newest that this release allows.
            requirements=("torch", "torchvision", "llamafactory==0.9.5", "deepspeed<=0.18.4", "ninja"),
            needs=("llamafactory", "torch", "transformers", "deepspeed"),
        ),
    ),
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
            remedy="--set parallel.sp=1",
            asked=lambda preset: preset.parallel.sp > 1,
            listed="no sequence parallelism",
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
)
