"""Logs and tables of other systems -> their steps; pure, bounded, nothing is executed.

Known: every engine whose spec has a log reader, those of log_formats.py, CSV. A log is told by its content:
the reader that finds most steps in it is meant, and the next best is named beside it.
"""

from __future__ import annotations

import csv
import io

from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.systems import log_formats, registry
from tgsbench.systems.log_lines import LoggedStep, LogReader

_WHOLE = 0.03
"""A number of GPUs that follows from a log's figures is whole to so much, or the figures do not fit."""


class ImportedLog(Struct, kw_only=True):
    """What one log says."""

    tool: str
    steps: list[LoggedStep]
    note: str = ""
    """What to know of figures that this tool logs."""
    runner_up: str = ""
    """The reader that found most of the others; empty: none found any."""
    num_gpus: int = 0
    """How many GPUs the log says, or its figures; 0: neither does."""


def readers() -> dict[str, LogReader]:
    """Readers by name: those of engines, then the others."""
    return {s.name: s.read_log for s in registry.engines() if s.read_log} | log_formats.READERS


def read_log(text: str, *, num_gpus: int = 0, seq_len: int, tool: str = "") -> ImportedLog:
    """Recognise a log and read its steps, each with its TGS.

    `num_gpus` (0: not known) and `seq_len` turn figures that a log gives for all GPUs, or in samples, into
    TGS; `tool` names the reader instead of the best one. Raises TgsError when no known tool wrote it, when
    it gives totals and nobody says of how many GPUs, or when it lacks the tokens of a step.
    """
    text = text.lstrip("\ufeff")
    known = readers()
    if tool and tool not in known:
        raise TgsError(f"no log reader called {tool!r}; {nearest(tool, known)}", exit_code=ExitCode.BAD_INPUT)
    told = log_formats.world_size(text)
    found = {name: known[name](text, num_gpus or told, seq_len) for name in ([tool] if tool else known)}
    counts = {name: sum(map(_has_tokens, steps)) for name, steps in found.items()}
    ranked = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    if not ranked:
        raise _unreadable(found, list(known))
    steps = found[ranked[0]]
    gpus = num_gpus or told or _gpus_of(steps)
    log = ImportedLog(tool=ranked[0], steps=steps, num_gpus=gpus, note=registry.log_note(ranked[0]))
    log.runner_up = f"{ranked[1]} ({counts[ranked[1]]:,} steps)" if len(ranked) > 1 else ""
    for step in steps:
        step.tgs = _tgs(step, gpus)
    if not any(step.tgs for step in steps):
        raise TgsError(
            f"this {log.tool} log gives tokens of all GPUs together, and does not say of how many",
            hint="--num-gpus 8",
            exit_code=ExitCode.BAD_INPUT,
        )
    return log


def _has_tokens(step: LoggedStep) -> bool:
    return bool(step.tgs or (step.tokens_all_gpus and step.step_s))


def _tgs(step: LoggedStep, num_gpus: int) -> float | None:
    """From the tokens and the time of the step where both are there, else as the log says it."""
    if step.tokens_all_gpus and step.step_s and num_gpus:
        return step.tokens_all_gpus / step.step_s / num_gpus
    return step.tgs


def _gpus_of(steps: list[LoggedStep]) -> int:
    """How many GPUs follow from tokens of all and of one of them; 0 where they do not say."""
    ratios = sorted(
        step.tokens_all_gpus / step.step_s / step.tgs
        for step in steps
        if step.tokens_all_gpus and step.step_s and step.tgs
    )
    middle = ratios[len(ratios) // 2] if ratios else 0.0
    nearest_whole = round(middle)
    return nearest_whole if nearest_whole and abs(middle - nearest_whole) < _WHOLE * nearest_whole else 0


def _unreadable(found: dict[str, list[LoggedStep]], known: list[str]) -> TgsError:
    timed = next((name for name, steps in found.items() if any(step.step_s for step in steps)), "")
    if timed:
        return TgsError(
            f"this {timed} log gives the time of its steps, and not how many tokens they had",
            hint="--global-batch 64: sequences of an optimizer step over all GPUs",
            exit_code=ExitCode.BAD_INPUT,
        )
    return TgsError(
        "no step with a throughput found",
        hint="known logs: " + ", ".join([*known, "CSV with a column tgs"]),
        exit_code=ExitCode.BAD_INPUT,
    )


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


def is_table(text: str) -> bool:
    """Is it a table with a column of TGS, a row a run? Its first line says so, cell by cell."""
    first = text.lstrip("\ufeff\n\r ").split("\n", 1)[0]
    cells = {cell.strip().strip('"').lower() for cell in first.split(max(",;\t", key=first.count))}
    steps = {"step", "_step", "global_step", "iteration"}
    return len(cells) > 1 and bool(cells & set(CSV_COLUMNS["tgs"])) and not cells & steps


def read_csv(text: str) -> list[dict[str, str]]:
    """Rows of a table under our column names; TgsError without a column for TGS."""
    text = text.lstrip("\ufeff")
    first = text.split("\n", 1)[0]
    try:
        table = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
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
