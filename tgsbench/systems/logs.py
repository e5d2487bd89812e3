"""Logs and tables of other systems -> their steps; pure, bounded, nothing is executed.

Known: every engine whose spec has a log reader, torchtitan, Megatron-LM, CSV.
"""

from __future__ import annotations

import csv
import io
import re

from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.systems import registry
from tgsbench.systems.log_lines import INDEX, NUMBER, LoggedStep, figure_after, text_lines, to_float
from tgsbench.systems.spec import LogReader

_GIB_OF = {"GiB": 1.0, "MiB": 1 / 1024, "GB": 1e9 / 2**30, "MB": 1e6 / 2**30}


class ImportedLog(Struct, kw_only=True):
    """What one log says."""

    tool: str
    steps: list[LoggedStep]
    note: str = ""
    """What to know of figures that this tool logs."""


def read_log(text: str, *, num_gpus: int, seq_len: int) -> ImportedLog:
    """Recognise a log and read its steps; TgsError when no known tool wrote it.

    `num_gpus` and `seq_len` turn figures that a log gives for all GPUs, or in samples, into TGS.
    """
    readers = {spec.name: spec.read_log for spec in registry.engines() if spec.read_log} | _OTHERS
    for tool, reader in readers.items():
        steps = reader(text, num_gpus, seq_len)
        if any(step.tgs is not None for step in steps):
            return ImportedLog(tool=tool, steps=steps, note=registry.log_note(tool))
    raise TgsError(
        "no step with a throughput found",
        hint="known logs: " + ", ".join([*readers, "CSV with a column tgs"]),
        exit_code=ExitCode.BAD_INPUT,
    )


def _torchtitan_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
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
    return steps


def _megatron_steps(text: str, num_gpus: int, seq_len: int) -> list[LoggedStep]:
    steps = []
    for line in text_lines(text):
        match, batch = _MEGATRON.search(line), figure_after(r"global batch size:\s*", line)
        if match is None or not batch:
            continue
        step_s = to_float(match[2]) / 1000
        tokens = batch * seq_len
        steps.append(
            LoggedStep(
                iteration=int(match[1]),
                tgs=tokens / step_s / num_gpus if step_s and num_gpus else None,
                step_s=step_s,
                tokens_all_gpus=tokens,
                tflops=figure_after(r"throughput per GPU \(TFLOP/s/GPU\):\s*", line),
                loss=figure_after(r"lm loss:\s*", line),
            )
        )
    return steps


_OTHERS: dict[str, LogReader] = {"torchtitan": _torchtitan_steps, "megatron": _megatron_steps}
"""Systems whose logs are read and which tgsbench does not run."""

_TITAN = re.compile(rf"\bstep:\s*{INDEX}\b.*?\b(?:tps|wps):\s*{NUMBER}")
_TITAN_MEMORY = re.compile(rf"memory:\s*{NUMBER}\s*(GiB|MiB|GB|MB)")
_MEGATRON = re.compile(rf"\biteration\s+{INDEX}/.*?elapsed time per iteration \(ms\):\s*{NUMBER}")


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
