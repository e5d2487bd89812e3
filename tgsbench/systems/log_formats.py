"""Logs of systems that tgsbench does not run, one reader each; see log_rows.py for those that log rows."""

from __future__ import annotations

import re
from typing import Any

from tgsbench.systems.engines import deepspeed
from tgsbench.systems.log_lines import (
    INDEX,
    NUMBER,
    LoggedStep,
    LogReader,
    figure_after,
    text_lines,
    to_float,
)
from tgsbench.systems.log_rows import Row, figures_of, history_rows, printed_rows, steps_of, table_rows

_GIB_OF = {"GiB": 1.0, "MiB": 1 / 1024, "GB": 1e9 / 2**30, "MB": 1e6 / 2**30}
_SECONDS_OF = {"ms": 1e-3, "s": 1.0}


def mean_over_ranks(steps: list[LoggedStep]) -> list[LoggedStep]:
    """Steps that several ranks logged, once each: TGS is the ranks' mean, memory their greatest."""
    by_step: dict[int, list[LoggedStep]] = {}
    for step in steps:
        by_step.setdefault(step.iteration, []).append(step)
    return [_together(members) for members in by_step.values()]


def _together(members: list[LoggedStep]) -> LoggedStep:
    first = members[0]
    if len(members) > 1:
        for name in ("tgs", "tflops", "mfu_percent", "step_s"):
            known = [value for step in members if (value := getattr(step, name)) is not None]
            setattr(first, name, sum(known) / len(known) if known else None)
        first.mem_gib = max((step.mem_gib for step in members if step.mem_gib), default=None)
    return first


_TITAN = re.compile(rf"\bstep:\s*{INDEX}\b.*?\b(?:tps|wps):\s*{NUMBER}")
_TITAN_MEMORY = re.compile(rf"memory:\s*{NUMBER}\s*(GiB|MiB|GB|MB)")


def torchtitan_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """torchtitan's lines, of one rank or of several in one file: tps is of the rank's GPU."""
    steps = []
    for line in text_lines(text):
        if (match := _TITAN.search(line)) is None:
            continue
        memory = _TITAN_MEMORY.search(line)
        steps.append(
            LoggedStep(
                iteration=int(match[1]),
                tgs=to_float(match[2]),
                tflops=figure_after(r"tflops:\s*", line),
                mfu_percent=figure_after(r"mfu:\s*", line),
                loss=figure_after(r"loss:\s*", line),
                mem_gib=to_float(memory[1]) * _GIB_OF[memory[2]] if memory else None,
            )
        )
    return mean_over_ranks(steps)


_XTUNER_V1 = re.compile(rf"\bStep {INDEX}/\d+\b.*?\btime: {NUMBER}\b.*?\btgs: {NUMBER}")


def xtuner_v1_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """XTuner v1's lines: tgs is of the rank's own share of its sequence, so the mean over ranks is TGS."""
    steps = [
        LoggedStep(
            iteration=int(match[1]),
            tgs=to_float(match[3]),
            step_s=to_float(match[2]),
            loss=figure_after(r"\b(?:total_loss|reduced_llm_loss): ", line),
            mem_gib=_scaled(figure_after(r"\bmax_memory: ", line), 1.0),
        )
        for line in text_lines(text)
        if (match := _XTUNER_V1.search(line)) is not None
    ]
    return mean_over_ranks(steps)


_ITERATION = re.compile(rf"\biteration\s*[:#]?\s*{INDEX}\s*/")
_ELAPSED = re.compile(rf"(?:elapsed )?time per iteration \((ms|s)\)\s*:\s*{NUMBER}")
_PER_GPU = re.compile(
    r"tokens per gpu(?: per second)? \([^)]*\)\s*:\s*" + NUMBER
    + r"|tokens/s/gpu(?: inst/harmonic mean)?\s*:\s*" + NUMBER
    + r"|tokens[- ]per[- ]second[- ]per[- ]gpu\s*:\s*" + NUMBER
    + "|" + NUMBER + r"\s*tok(?:ens)?/s/gpu",
    re.IGNORECASE,
)  # fmt: skip
_TFLOPS = re.compile(
    r"per GPU\s*\(TFLOP/s/GPU\)\s*:\s*" + NUMBER + r"|\bTFLOPs\s*:\s*" + NUMBER + "|" + NUMBER
    + r"\s*MODEL_TFLOP/s/GPU",
    re.IGNORECASE,
)  # fmt: skip
_BRIDGE = re.compile(rf"\bStep Time\s*:\s*{NUMBER}\s*(ms|s)\b")


def megatron_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """Lines of Megatron-LM and its descendants (Megatron-DeepSpeed, Bridge, Primus, MindSpeed).

    Whatever stands before "iteration", milliseconds or seconds, with or without tokens of one GPU. Where both
    those and the batch are there, the number of GPUs follows. Bridge writes "Step Time" in a line before.
    """
    steps: list[LoggedStep] = []
    ahead: LoggedStep | None = None
    for line in text_lines(text):
        bridge = _BRIDGE.search(line)
        if bridge is not None:
            step_s = to_float(bridge[1]) * _SECONDS_OF[bridge[2]]
            ahead = LoggedStep(
                iteration=0, step_s=step_s, tgs=_one_of(_PER_GPU, line), tflops=_one_of(_TFLOPS, line)
            )
        match, elapsed = _ITERATION.search(line), _ELAPSED.search(line)
        if match is None or elapsed is None:
            continue
        batch = figure_after(r"global[ _]batch[ _]size\s*:\s*", line)
        step = LoggedStep(
            iteration=int(match[1]),
            tgs=_one_of(_PER_GPU, line) or (ahead.tgs if ahead is not None else None),
            step_s=to_float(elapsed[2]) * _SECONDS_OF[elapsed[1]],
            tokens_all_gpus=batch * seq_len if batch else None,
            tflops=_one_of(_TFLOPS, line) or (ahead.tflops if ahead is not None else None),
            loss=figure_after(r"lm loss\s*:\s*", line),
        )
        steps.append(step)
        ahead = None
    return mean_over_ranks(steps)


def _one_of(pattern: re.Pattern[str], line: str) -> float | None:
    match = pattern.search(line)
    return to_float(next(group for group in match.groups() if group)) if match else None


_NEMO = re.compile(r"train_step_timing in s\s*[:=]\s*" + NUMBER)
_NEMO_STEP = re.compile(r"global_step\s*[:=]\s*" + NUMBER)


def nemo_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """NeMo's lines, "key: value | key: value" or a progress bar's "key=value"."""
    rows: list[dict[str, Any]] = []
    for line in text_lines(text):
        timing, step = _NEMO.search(line), _NEMO_STEP.search(line)
        if timing is None or step is None:
            continue
        row: Row = {"global_step": to_float(step[1]), "train_step_timing in s": to_float(timing[1])}
        for key in ("global_batch_size", "consumed_samples", "reduced_train_loss", "tflops_per_sec_per_gpu"):
            value = figure_after(rf"{key}\s*[:=]\s*", line)
            if value is not None:
                row[key] = value
        rows.append(dict(row))
    return steps_of(rows, seq_len)


_DEEPSPEED = re.compile(rf"CurrSamplesPerSec={NUMBER}")
_DEEPSPEED_STEP = re.compile(rf"(?:global_step|step)={INDEX}")


def deepspeed_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """DeepSpeed's throughput timer: samples a second over all GPUs."""
    steps = []
    for line in text_lines(text):
        rate, step = _DEEPSPEED.search(line), _DEEPSPEED_STEP.search(line)
        if rate is not None and step is not None and to_float(rate[1]) > 0:
            tokens = to_float(rate[1]) * seq_len
            steps.append(LoggedStep(iteration=int(step[1]), step_s=1.0, tokens_all_gpus=tokens))
    return mean_over_ranks(steps)


def swift_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """ms-swift's logging.jsonl or its printed dictionaries: the mean speed since the run began."""
    rows = [row for row in printed_rows(text) if any(str(key).startswith("train_speed(") for key in row)]
    return steps_of(rows, seq_len, global_batch(text))


def trainer_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """Transformers, TRL and Axolotl: trainer_state.json, or the dictionaries that they print.

    The last row has the whole run's time and steps: with the tokens seen it is one figure of all.
    """
    rows = history_rows(text) or list(printed_rows(text))
    rows = [row for row in rows if "step" in row or "epoch" in row or "train_runtime" in row]
    numbered = [{"step": number, **row} for number, row in enumerate(rows, 1)]
    steps = [step for step in steps_of(numbered, seq_len, 0) if step.tgs or step.tokens_all_gpus]
    return steps or _whole_run(numbered, seq_len, global_batch(text))


def _whole_run(rows: list[dict[str, Any]], seq_len: int, batch: int) -> list[LoggedStep]:
    last = next((row for row in reversed(rows) if "train_runtime" in row), None)
    if last is None:
        return []
    runtime = figures_of(last).get("runtime_s")
    samples, per_s = (figures_of({"step": last.get(key)}).get("iteration") for key in _SAMPLES)
    seen = max((figures_of(row).get("tokens_seen", 0.0) for row in rows), default=0.0)
    tokens = seen or (per_s or 0.0) * (runtime or 0.0) * seq_len
    count = max((figures_of(row).get("iteration", 0.0) for row in rows), default=1.0)
    tokens = tokens or batch * seq_len * (samples or count)
    if not runtime or not tokens:
        return []
    return [LoggedStep(iteration=int(count), step_s=runtime, tokens_all_gpus=tokens)]


_SAMPLES = ("global_step", "train_samples_per_second")


def metric_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    """Rows of metrics from any tool: a wandb or TensorBoard export, JSON lines."""
    return steps_of(table_rows(text) or printed_rows(text), seq_len, global_batch(text))


_BATCH = re.compile(
    r"(?:total train batch size|global[ _-]batch[ _-]size|train_batch_size)\b[^=:\n]{0,80}[=:]\s*(\d{1,9})",
    re.IGNORECASE,
)
_WORLD = re.compile(
    r"(?:world[ _]?size|num[ _]?gpus|n_gpus?|num_processes|number of (?:gpus|devices)|distributed world size)"
    r"['\"]?\s*(?:is|[:=])\s*(\d{1,6})",
    re.IGNORECASE,
)
_OF_WORLD = re.compile(r"\[rank[-_ ]?\d+/(\d{1,6})\]", re.IGNORECASE)


def global_batch(text: str) -> int:
    """Sequences of an optimizer step over all GPUs, where a line says so; 0: none does."""
    match = _BATCH.search(text[:_SEARCHED])
    return int(match[1]) if match else 0


def world_size(text: str) -> int:
    """How many GPUs a log says that it ran on; 0: it does not say."""
    found = [int(n) for pattern in (_WORLD, _OF_WORLD) for n in pattern.findall(text[:_SEARCHED])]
    return max(found, default=0)


_SEARCHED = 4 << 20


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if value is not None else None


READERS: dict[str, LogReader] = {
    "xtuner_v1": xtuner_v1_steps,
    "torchtitan": torchtitan_steps,
    "megatron": megatron_steps,
    "nemo": nemo_steps,
    deepspeed.ENGINE.name: deepspeed_steps,
    "ms-swift": swift_steps,
    "transformers": trainer_steps,
    "metrics": metric_steps,
}
"""Name -> reader; of two that read as much, the first is meant."""
