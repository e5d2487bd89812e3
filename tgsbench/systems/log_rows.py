"""Rows of metrics - JSON lines, printed dictionaries, tables of steps, scalars - by what their columns mean.

Trainers name the same figure in many ways; METRICS says which names mean which, so that the log of ms-swift,
Transformers, TRL, Axolotl, NeMo, a wandb export and a TensorBoard file are read alike.
"""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import msgspec

from tgsbench.systems.log_lines import LoggedStep, finite, json_lines, text_lines

METRICS: dict[str, tuple[str, ...]] = {
    "iteration": (
        "global_step/max_steps", "global_step", "step", "_step", "iteration", "iter", "current_steps",
        "trainer/global_step", "train/global_step",
    ),
    "tgs": (
        "tgs", "seqlen_tgs", "tokens_per_gpu_per_s", "tokens_per_gpu_per_second", "tokens_per_sec_per_gpu",
        "tokens_per_second_per_gpu", "tokens/train_per_sec_per_gpu", "tokens/s/gpu", "tok/s/gpu", "tps",
        "throughput(tps)", "tps_per_gpu", "tokens_per_sec_per_device", "throughput/device/tokens_per_sec",
        "tokens_per_gpu", "tps/gpu", "tokens_per_second_per_device", "train_tokens_per_second_per_gpu",
    ),
    "tokens_per_s": (
        "tokens_per_sec", "tokens_per_second", "tokens/s", "throughput/tokens_per_sec", "tokens/sec",
        "tokens_per_second_total", "global_tokens_per_second", "tok/s",
    ),
    "step_s": (
        "train_step_timing in s", "step_time", "step_time_s", "iteration-time", "iteration_time",
        "time/step_time", "time_metrics/end_to_end(s)", "elapsed_time_per_iteration", "time_per_iteration",
        "train_step_time", "timing/step_s",
    ),
    "s_per_it": ("train_speed(s/it)", "train_speed(sec/iter)"),
    "it_per_s": ("train_speed(iter/s)",),
    "tokens_seen": ("num_input_tokens_seen", "num_tokens", "tokens/total", "total_tokens", "consumed_tokens"),
    "samples_seen": ("consumed_samples", "consumed-samples"),
    "batch": ("global_batch_size", "batch-size"),
    "tflops": ("tflops", "tflops_per_gpu", "tflops_per_sec_per_gpu", "tflop/s/gpu", "throughput"),
    "mfu": ("mfu", "mfu(%)", "mfu_percent"),
    "loss": ("loss", "train_loss", "reduced_train_loss", "lm loss", "loss/total", "total_loss"),
    "mem_gib": ("memory(gib)", "memory/max_active (gib)", "memory/max_allocated (gib)", "mem_gib"),
    "runtime_s": ("_runtime", "train_runtime", "elapsed_s"),
}  # fmt: skip
"""What a figure is -> names that mean it, compared in lower case and without what stands before the last
slash where the whole name is unknown. `tgs` is of one GPU, `tokens_per_s` of all of them."""

_MEANING = {alias: name for name, aliases in METRICS.items() for alias in aliases}
_DICT = re.compile(r"\{'[^{}]*\}")
_JSON_INSIDE = re.compile(r"\{\"[^{}]*\}")
"""An object behind something else in its line, as a progress bar."""
_MOST_KEYS = 400
_LEADING = re.compile(r"^\s*([\d,.eE+-]++)\s*(ms|k|M)?(?![a-zA-Z])")
_IN_MS = re.compile(r"[ _]?[(\[]?\bms\b[)\]]?$|_ms$", re.IGNORECASE)
_FACTORS = {"ms": 1e-3, "k": 1e3, "M": 1e6}
Row = dict[str, float]
"""Figures of one logged step, by what they are."""


def meaning_of(name: str) -> str:
    """What a column is, "" for one that is none of METRICS; wandb writes "RUN - train/METRIC"."""
    text = name.strip().strip("\ufeff\"'").lower().rpartition(" - ")[2]
    return (
        _MEANING.get(text)
        or _MEANING.get(text.removeprefix("train/"))
        or _MEANING.get(text.rpartition("/")[2], "")
    )


def figures_of(row: dict[str, Any]) -> Row:
    """The figures among a row's values, also those written as text: "1/94" is step 1, "12.5%" is 12.5."""
    found: Row = {}
    for key, value in list(row.items())[:_MOST_KEYS]:
        name, factor = _meant(key) if isinstance(key, str) else ("", 1.0)
        figure = finite(value) if not isinstance(value, str) else _leading(value)
        if name and figure is not None:
            found.setdefault(name, figure * factor)
    return found


def _meant(key: str) -> tuple[str, float]:
    """What a column is, and what its unit is in the usual one: "step_time_ms" is in thousandths."""
    name = meaning_of(key)
    if name or not _IN_MS.search(key.strip()):
        return name, 1.0
    name = meaning_of(_IN_MS.sub("", key.strip()))
    return (name, 1e-3) if name == "step_s" else ("", 1.0)


def _leading(text: str) -> float | None:
    """The number that a text begins with: "1/94" is 1, "3.6k tok/s" 3600, "812 ms" 0.812."""
    match = _LEADING.match(text) or re.match(r"^\s*([\d,.eE+-]+)()", text)
    try:
        return finite(float(match[1].replace(",", "")) * _FACTORS.get(match[2] or "", 1.0)) if match else None
    except ValueError:
        return None


def printed_rows(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects and dictionaries as Python prints them, wherever in a line they stand."""
    yield from json_lines(text)
    for line in text_lines(text):
        for match in _JSON_INSIDE.finditer(line if not line.lstrip().startswith("{") else ""):
            yield from json_lines(match[0])
        for match in _DICT.finditer(line):
            try:
                row = ast.literal_eval(match[0])  # literals only: nothing is executed
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def history_rows(text: str) -> list[dict[str, Any]]:
    """The log history of a trainer_state.json; empty for any other text."""
    if '"log_history"' not in text:
        return []
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return []
    rows = found.get("log_history") if isinstance(found, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def table_rows(text: str) -> list[dict[str, Any]]:
    """Rows of a table with a column of steps, as wandb and TensorBoard export them; else none."""
    header = text.lstrip("\ufeff").split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    names = [cell.strip().strip('"').lower() for cell in header.split(delimiter)]
    if "iteration" not in {meaning_of(name) for name in names} or len(names) < 2:
        return []
    try:
        return list(csv.DictReader(io.StringIO(text.lstrip("\ufeff")), delimiter=delimiter))
    except csv.Error:
        return []


def steps_of(rows: Iterable[dict[str, Any]], seq_len: int = 0, batch: int = 0) -> list[LoggedStep]:
    """Steps of rows in order; a row's time may be said, or follow from speeds since the run began.

    `batch`: sequences of a step over all GPUs, where the rows do not say.
    """
    found = [row for row in map(figures_of, rows) if "iteration" in row or "tgs" in row]
    merged = _merged(found)
    steps = [_step(row, seq_len, batch) for row in merged]
    for (before, row), step in zip(pairwise(merged), steps[1:], strict=True):
        _from_difference(step, before, row, seq_len, batch)
    return [step for step in steps if _has_speed(step)]


def _merged(rows: list[Row]) -> list[Row]:
    """Rows of one step together: exports have a line for each metric."""
    by_step: dict[float, Row] = {}
    for number, row in enumerate(rows):
        by_step.setdefault(row.get("iteration", -1.0 - number), {}).update(row)
    return list(by_step.values())


def _step(row: Row, seq_len: int, batch: int) -> LoggedStep:
    tokens = (row.get("batch") or batch) * seq_len or None
    step_s = row.get("step_s")
    if row.get("tokens_per_s"):
        tokens, step_s = row["tokens_per_s"] * (step_s or 1.0), step_s or 1.0
    return LoggedStep(
        iteration=int(row.get("iteration", 0)),
        tgs=row.get("tgs"),
        step_s=step_s,
        tokens_all_gpus=tokens,
        tflops=row.get("tflops"),
        mfu_percent=row.get("mfu"),
        loss=row.get("loss"),
        mem_gib=row.get("mem_gib"),
    )


def _from_difference(step: LoggedStep, before: Row, row: Row, seq_len: int, batch: int) -> None:
    """What two rows' counters say of the steps between them: time, and tokens of all GPUs."""
    count = row.get("iteration", 0) - before.get("iteration", 0)
    seconds = _clock(row), _clock(before)
    if step.step_s is None and seconds[0] is not None and seconds[1] is not None and count > 0:
        step.step_s = max(0.0, seconds[0] - seconds[1]) / count or None
    for key, each in (("tokens_seen", 1), ("samples_seen", seq_len)):
        if step.tokens_all_gpus is None and key in row and key in before and count > 0:
            step.tokens_all_gpus = (row[key] - before[key]) * each / count or None


def _clock(row: Row) -> float | None:
    """Seconds since the run began: ms-swift logs the mean speed up to each step."""
    if "runtime_s" in row:
        return row["runtime_s"]
    if row.get("it_per_s"):
        return row.get("iteration", 0.0) / row["it_per_s"]
    return row["iteration"] * row["s_per_it"] if "s_per_it" in row and "iteration" in row else None


def _has_speed(step: LoggedStep) -> bool:
    return bool(step.tgs or (step.tokens_all_gpus and step.step_s) or step.step_s)
