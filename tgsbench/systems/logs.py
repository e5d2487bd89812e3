"""Lines of other systems' logs and tables -> their steps; pure, bounded, nothing is executed.

Known: XTuner (text log, scalars.json), LLaMA-Factory (trainer_log.jsonl), torchtitan, Megatron-LM, CSV.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError

_MAX_LINE = 64 * 1024
"""Longer lines are no step of any known log."""
_MAX_TEXT_LINE = 4 * 1024
"""The same for lines that patterns search: they are quadratic, a hostile 64 KiB line took a minute."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = r"([-+]?\d[\d,]{0,24}\.?\d{0,24}(?:[eE][-+]?\d{1,2})?)"
_INDEX = r"(\d{1,15})"
_GIB_OF = {"GiB": 1.0, "MiB": 1 / 1024, "GB": 1e9 / 2**30, "MB": 1e6 / 2**30}


class LoggedStep(Struct, kw_only=True):
    """One logged iteration; what the log does not say is None."""

    iteration: int
    tgs: float | None = None
    """Tokens per GPU per second."""
    step_s: float | None = None
    tokens_all_gpus: float | None = None
    """Tokens over all GPUs in this iteration, padding included where the system counts it."""
    tflops: float | None = None
    mfu_percent: float | None = None
    loss: float | None = None
    mem_gib: float | None = None


class ImportedLog(Struct, kw_only=True):
    """What one log says."""

    tool: str
    steps: list[LoggedStep]


def read_log(text: str, *, num_gpus: int, seq_len: int) -> ImportedLog:
    """Recognise a log and read its steps; TgsError when no known tool wrote it.

    `num_gpus` and `seq_len` turn figures that a log gives for all GPUs, or in samples, into TGS.
    """
    for tool, reader in _READERS.items():
        steps = reader(text, num_gpus, seq_len)
        if any(step.tgs is not None for step in steps):
            return ImportedLog(tool=tool, steps=steps)
    raise TgsError(
        "no step with a throughput found",
        hint="known logs: " + ", ".join([*_READERS, "CSV with a column tgs"]),
        exit_code=ExitCode.BAD_INPUT,
    )


def xtuner_steps(text: str, num_gpus: int = 0, seq_len: int = 0) -> list[LoggedStep]:
    """XTuner's iterations (micro-batches) from scalars.json or the text log of mmengine."""
    found = [_xtuner_scalar(row) for row in json_lines(text) if "tokens_per_sec" in row]
    found += [_xtuner_line(match, line) for line in _lines(text) if (match := _XTUNER.search(line))]
    return [step for step in found if step is not None]


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
                    iteration=int(_number(row.get("current_steps")) or 0),
                    tgs=done / step_s / max(1, num_gpus),
                    step_s=step_s,
                    tokens_all_gpus=done,
                    loss=_number(row.get("loss")),
                )
            )
    return steps


def _torchtitan_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    steps = []
    for line in _lines(text):
        if (match := _TITAN.search(line)) is None:
            continue
        memory = _TITAN_MEMORY.search(line)
        steps.append(
            LoggedStep(
                iteration=int(match[1]),
                tgs=_float(match[2]),
                tflops=_find(r"tflops:\s*", line),
                mfu_percent=_find(r"mfu:\s*", line),
                loss=_find(r"loss:\s*", line),
                mem_gib=_float(memory[1]) * _GIB_OF[memory[2]] if memory else None,
            )
        )
    return steps


def _megatron_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    steps = []
    for line in _lines(text):
        match, batch = _MEGATRON.search(line), _find(r"global batch size:\s*", line)
        if match is None or not batch:
            continue
        step_s = _float(match[2]) / 1000
        tokens = batch * seq_len
        steps.append(
            LoggedStep(
                iteration=int(match[1]),
                tgs=tokens / step_s / num_gpus if step_s and num_gpus else None,
                step_s=step_s,
                tokens_all_gpus=tokens,
                tflops=_find(r"throughput per GPU \(TFLOP/s/GPU\):\s*", line),
                loss=_find(r"lm loss:\s*", line),
            )
        )
    return steps


_Reader = Callable[[str, int, int], list[LoggedStep]]
_READERS: dict[str, _Reader] = {
    "xtuner": xtuner_steps,
    "llamafactory": llamafactory_steps,
    "torchtitan": _torchtitan_steps,
    "megatron": _megatron_steps,
}

_XTUNER = re.compile(rf"Iter\(train\)\s*\[\s*{_INDEX}/\d+\].*?\btime: {_NUMBER}.*?tokens_per_sec: {_NUMBER}")
_TITAN = re.compile(rf"\bstep:\s*{_INDEX}\b.*?\b(?:tps|wps):\s*{_NUMBER}")
_TITAN_MEMORY = re.compile(rf"memory:\s*{_NUMBER}\s*(GiB|MiB|GB|MB)")
_MEGATRON = re.compile(rf"\biteration\s+{_INDEX}/.*?elapsed time per iteration \(ms\):\s*{_NUMBER}")


def _llamafactory_clock(row: dict[str, Any]) -> tuple[float, float] | None:
    """Tokens and seconds since the run began."""
    tokens, throughput = _number(row.get("total_tokens")), _number(row.get("throughput"))
    if tokens is None or not throughput or not math.isfinite(tokens / throughput):
        return None
    return tokens, tokens / throughput


def _xtuner_scalar(row: dict[str, Any]) -> LoggedStep | None:
    tgs, step_s = _number(row["tokens_per_sec"]), _number(row.get("time"))
    if tgs is None or step_s is None:
        return None
    memory_mib = _number(row.get("memory"))
    return LoggedStep(
        iteration=int(_number(row.get("iter")) or _number(row.get("step")) or 0),
        tgs=tgs,
        step_s=step_s,
        tflops=_number(row.get("tflops")),
        loss=_number(row.get("loss")),
        mem_gib=memory_mib / 1024 if memory_mib else None,
    )


def _xtuner_line(match: re.Match[str], line: str) -> LoggedStep:
    memory_mib = _find(r"\bmemory: ", line)
    return LoggedStep(
        iteration=int(match[1]),
        tgs=_float(match[3]),
        step_s=_float(match[2]),
        tflops=_find(r"\btflops: ", line),
        loss=_find(r"\bloss: ", line),
        mem_gib=memory_mib / 1024 if memory_mib else None,
    )


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if len(line) <= _MAX_TEXT_LINE:
            yield _ANSI.sub("", line)


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects of a log, one a line; every other line is passed over."""
    for line in text.splitlines():
        if not line.startswith("{") or len(line) > _MAX_LINE:
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _find(before: str, line: str) -> float | None:
    match = re.search(before + _NUMBER, line)
    return _float(match[1]) if match else None


def _float(text: str) -> float:
    return float(text.replace(",", ""))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# --- CSV ------------------------------------------------------------------------------------------

CSV_COLUMNS: dict[str, tuple[str, ...]] = {
    "tgs": ("tgs", "tokens_per_gpu_per_s", "tokens/gpu/s", "tok/s/gpu", "tps", "wps"),
    "tflops": ("tflops", "tflops_per_gpu", "tflops_xtuner", "tflop/s/gpu"),
    "mfu": ("mfu", "mfu_percent", "mfu (%)"),
    "name": ("name", "run", "config", "label", "preset"),
    "model": ("model", "model_name"),
    "gpu": ("gpu", "gpu_name", "device"),
    "num_gpus": ("num_gpus", "gpus", "world_size", "n_gpus"),
    "seq_len": ("seq_len", "sequence_length", "seqlen", "max_length", "length"),
    "sp": ("sp", "sequence_parallel_size", "cp"),
    "mem_gib": ("mem_gib", "mem_peak_gib", "mem_gb", "memory"),
}
"""What a column means -> headers that mean it, compared in lower case."""


def read_csv(text: str) -> list[dict[str, str]]:
    """Rows of a table under our column names; TgsError without a column for TGS."""
    try:
        table = csv.DictReader(io.StringIO(text))
        header = {h.strip().lower(): h for h in table.fieldnames or []}
        pairs = [(name, alias) for name, aliases in CSV_COLUMNS.items() for alias in aliases]
        known = {name: header[alias] for name, alias in pairs if alias in header}
        if "tgs" not in known:
            raise TgsError(
                f"no column for TGS among: {', '.join(header) or 'nothing'}",
                hint="name one of them tgs",
                exit_code=ExitCode.BAD_INPUT,
            )
        return [{name: (row.get(column) or "").strip() for name, column in known.items()} for row in table]
    except csv.Error as error:
        raise TgsError(f"not a CSV table: {error}", exit_code=ExitCode.BAD_INPUT) from error
