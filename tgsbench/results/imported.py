"""Logs and tables of other systems, kept as rows beside the runs: RUNS/foreign/NAME.json."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.metrics import figures, stats
from tgsbench.models.spec import num_parameters
from tgsbench.presets.catalog import find_gpu
from tgsbench.results import scalars
from tgsbench.results.convention import Identified, identify
from tgsbench.results.index import Summary
from tgsbench.results.rows import Row, priced
from tgsbench.safe_files import harmless, harmless_json, read_regular, reason_of
from tgsbench.schema.preset import ModelShape
from tgsbench.schema.run import SCHEMA_VERSION
from tgsbench.store.run_dir import unwritable, write_atomic
from tgsbench.systems import logs
from tgsbench.systems.log_lines import LoggedStep
from tgsbench.systems.logs import ImportedLog

_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
_MAX_BYTES = 64 << 20
_WARMUP_AT_MOST = 3


class Context(Struct, frozen=True, kw_only=True):
    """What a log does not say about itself and the user must."""

    name: str
    model: ModelShape
    seq_len: int
    gpu: str = ""
    num_gpus: int = 0
    """0: not said."""
    preset: str = ""
    """Preset that was trained; empty: not said."""
    tool: str = ""
    """Reader of the log; empty: the one that finds most in it."""
    global_batch: int = 0
    """Sequences of an optimizer step over all GPUs, for logs that give times alone; 0: not said."""
    sp: int = 1
    document_mask: bool | None = None
    checkpointing: str = ""
    warmup: int | None = None
    """Logged iterations dropped first; None: 3, or a third of a short log."""


class ImportedRow(Struct, kw_only=True):
    """One imported row and what is known about its TFLOPs."""

    schema_version: int = SCHEMA_VERSION
    row: Row
    tool: str
    preset: str = ""
    """Preset that it was imported with."""
    num_gpus_said: bool = True
    """False: neither the log nor the user says how many GPUs; the row holds 1."""
    identified: Identified | None = None
    """None when the source states no TFLOPs and no MFU."""
    note: str = ""


def read_text(path: Path) -> str:
    """A foreign log's text; undecodable bytes are replaced.

    Raises TgsError when the file cannot be read or is too large.
    """
    try:
        return _decoded(read_regular(path, _MAX_BYTES, follow=True), path)
    except OSError as error:
        hint = "cut out the steps" if error.errno == errno.EFBIG else ""
        raise TgsError(f"{path}: {error.strerror}", hint=hint, exit_code=ExitCode.BAD_INPUT) from error


def _decoded(data: bytes, path: Path) -> str:
    """Text in the encoding that its byte order mark says; a TensorBoard file as rows of its scalars."""
    if scalars.is_event_file(data):
        return scalars.as_json_lines(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def from_log(text: str, context: Context) -> ImportedRow:
    """Turn a log into one row: warm-up dropped, median with interval, Σ tokens / Σ time beside it.

    Raises TgsError when no step is left after warm-up.
    """
    if context.global_batch:
        text = f"global batch size: {context.global_batch}\n{text}"
    log = logs.read_log(text, num_gpus=context.num_gpus, seq_len=context.seq_len, tool=context.tool)
    context = msgspec.structs.replace(context, num_gpus=context.num_gpus or log.num_gpus)
    steps = [step for step in log.steps[_warmup(log, context.warmup) :] if step.tgs]
    samples = [step.tgs for step in steps if step.tgs]
    median = stats.median(samples)
    if median is None:
        raise TgsError("no step is left after warm-up", hint="--warmup 0", exit_code=ExitCode.BAD_INPUT)
    tflops = stats.median([step.tflops for step in steps if step.tflops])
    mfu = stats.median([step.mfu_percent for step in steps if step.mfu_percent])
    row = _row(context, log.tool, median, samples)
    row = msgspec.structs.replace(
        row, mem_peak_gib=max((s.mem_gib for s in steps if s.mem_gib), default=None), mem_kind="cuda"
    )
    return _identified(row, context, log.tool, tflops, mfu, _log_note(log, steps, context))


def from_csv(text: str, context: Context, models: dict[str, ModelShape]) -> list[ImportedRow]:
    """Turn a table into rows; what a row says goes before `context`.

    Raises TgsError when no row has a TGS.
    """
    found = []
    for index, cells in enumerate(logs.read_csv(text), start=2):
        tgs = _cell(cells, "tgs", index)
        if tgs is None:
            continue
        own = _row_context(cells, context, models, index)
        row = _row(own, "csv", tgs, [])
        row = msgspec.structs.replace(row, mem_peak_gib=_cell(cells, "mem_gib", index))
        found.append(
            _identified(row, own, "csv", _cell(cells, "tflops", index), _cell(cells, "mfu", index), "")
        )
    if not found:
        raise TgsError("the table has no row with a TGS", exit_code=ExitCode.BAD_INPUT)
    return found


def save(root: Path, foreign: ImportedRow) -> Path:
    """Keep a row under its name; TgsError when one of that name exists already."""
    path = root / "foreign" / f"{safe_name(foreign.row.label)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise TgsError(f"{path} already exists", hint="choose another --name", exit_code=ExitCode.STORE)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(foreign), indent=2) + b"\n")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def load(path: Path) -> ImportedRow:
    """Read one stored row.

    Raises TgsError when the file cannot be read or holds no imported row.
    """
    try:
        data = harmless_json(read_regular(path, _MAX_BYTES))
        return harmless(msgspec.json.decode(data, type=ImportedRow))
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TgsError(
            f"{path}: not an imported row: {reason_of(error)}", exit_code=ExitCode.STORE
        ) from error


def names(root: Path) -> list[str]:
    """Names of all imported rows."""
    return sorted(path.stem for path in (root / "foreign").glob("*.json"))


def safe_name(name: str) -> str:
    """The name if it cannot leave the folder, else TgsError."""
    if not _SAFE_NAME.match(name) or ".." in name:
        raise TgsError(
            f"name {name!r} may hold letters, digits, '_', '.', '-' only", exit_code=ExitCode.STORE
        )
    return name


def _row(context: Context, tool: str, tgs: float, samples: list[float]) -> Row:
    gpu = find_gpu(context.gpu) if context.gpu else None
    return Row(
        label=context.name,
        kind="foreign",
        system=tool,
        model=context.model.name,
        num_parameters=num_parameters(context.model),
        gpu=gpu.name if gpu else context.gpu,
        num_gpus=context.num_gpus or 1,
        seq_len=context.seq_len,
        sp=context.sp,
        document_mask=context.document_mask,
        checkpointing=context.checkpointing,
        tgs=tgs,
        ci95=stats.median_ci95(samples),
        samples=samples,
        source=f"imported from a {tool} {'table' if tool == 'csv' else 'log'}",
    )


def _identified(
    row: Row, context: Context, tool: str, tflops: float | None, mfu_percent: float | None, note: str
) -> ImportedRow:
    """Name the convention of the stated TFLOPs (or MFU), and keep the speed in `model` terms."""
    gpu = find_gpu(context.gpu) if context.gpu else None
    if tflops is None and mfu_percent is not None and gpu is not None:
        tflops = figures.tflops_at_mfu(mfu_percent / 100, gpu)
    said = bool(context.num_gpus)
    row = priced(row)
    if not tflops or not row.tgs:
        return ImportedRow(row=row, tool=tool, preset=context.preset, num_gpus_said=said, note=note)
    found = identify(context.model, context.seq_len, row.tgs, tflops, gpu)
    by_convention = {"model": found.model_tflops, (found.convention or "unknown convention"): tflops}
    row = msgspec.structs.replace(row, tflops=by_convention, mfu=found.model_mfu)
    return ImportedRow(
        row=row, tool=tool, preset=context.preset, num_gpus_said=said, identified=found, note=note
    )


def _warmup(log: ImportedLog, asked: int | None) -> int:
    return asked if asked is not None else min(_WARMUP_AT_MOST, len(log.steps) // 3)


def _log_note(log: ImportedLog, steps: list[LoggedStep], context: Context) -> str:
    said = [log.note] if log.note else []
    weights = [(s.tgs, s.step_s) for s in steps if s.tgs and s.step_s]
    if weights and not said:
        total = sum(tgs * s for tgs, s in weights) / sum(s for _, s in weights)
        said.append(f"sum of tokens over sum of time: {units.rate(total)} tokens/GPU/s")
    if not context.num_gpus:
        said.append("figures are per GPU; of how many, the log does not say: --num-gpus")
    if log.runner_up and not context.tool:
        said.append(f"read as a {log.tool} log; next best: --format {log.runner_up}")
    return "; ".join(said)


def summaries(root: Path) -> list[Summary]:
    """Imported rows as the list of runs shows them; one that cannot be read says why."""
    return [_summary(path) for path in sorted((root / "foreign").glob("*.json"))]


def _summary(path: Path) -> Summary:
    try:
        created = path.stat().st_mtime
    except OSError as error:
        return Summary(run_id=path.stem, status="damaged", reason=f"{path.name}: {error.strerror}")
    try:
        found = load(path)
    except TgsError as error:
        reason = error.msg.removeprefix(f"{path.parent}/")
        return Summary(run_id=path.stem, status="damaged", reason=reason, created_unix=created)
    row = found.row
    return Summary(
        run_id=row.label,
        status="imported",
        preset=row.model,
        engine=found.tool,
        tgs=row.tgs,
        n=len(row.samples),
        seq_len=row.seq_len or 0,
        world_size=row.num_gpus or 0,
        sp=row.sp or 0,
        created_unix=created,
        reason=row.source,
    )


def _row_context(
    cells: dict[str, str], context: Context, models: dict[str, ModelShape], index: int
) -> Context:
    """The context of one table row."""
    replace = msgspec.structs.replace
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", cells.get("name", "")).strip("-.")
    context = replace(context, name=f"{context.name}-{name or index}")
    if cells.get("model"):
        context = replace(context, model=_model(cells["model"], models, index))
    if cells.get("seq_len"):
        context = replace(context, seq_len=_length(cells["seq_len"], index))
    if cells.get("gpu"):
        context = replace(context, gpu=cells["gpu"])
    for field in ("num_gpus", "sp"):
        if (value := _cell(cells, field, index)) is not None:
            context = replace(context, **{field: int(value)})
    return context


def _model(name: str, models: dict[str, ModelShape], index: int) -> ModelShape:
    by_name = models | {shape.name: shape for shape in models.values()}
    if name not in by_name:
        raise TgsError(
            f"line {index}: no model called {name!r}; {nearest(name, by_name)}", exit_code=ExitCode.BAD_INPUT
        )
    return by_name[name]


def _length(text: str, index: int) -> int:
    try:
        return units.parse_length(text)
    except ValueError as error:
        raise TgsError(f"line {index}: {error}", exit_code=ExitCode.BAD_INPUT) from error


def _cell(cells: dict[str, str], name: str, index: int) -> float | None:
    text = cells.get(name, "").replace(",", "").rstrip(" %")
    if not text or text.lower() in ("-", "oom", "nan", "none", "n/a"):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise TgsError(
            f"line {index}: {name} = {cells[name]!r} is no number", exit_code=ExitCode.BAD_INPUT
        ) from error
    return value if 0 < value < 1e15 else None
