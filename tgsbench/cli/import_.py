"""`tgsbench import`: another tool's log or table as rows to compare with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from tgsbench import presets, units
from tgsbench.cli import complete, output
from tgsbench.cli.convention import known_gpu, model_terms, read_length
from tgsbench.errors import TgsError
from tgsbench.presets import catalog
from tgsbench.results import imported
from tgsbench.results.imported import Context, ImportedRow
from tgsbench.schema.preset import ModelShape
from tgsbench.store import run_dir
from tgsbench.systems import logs
from tgsbench.systems.log_rows import table_rows


class ImportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user says that a log does not, as typed."""

    preset_name: str | None
    model: str | None
    seq_len: str | None
    gpu: str | None
    num_gpus: int | None
    global_batch: int | None
    tool: str | None
    sp: int | None
    document_mask: bool | None
    warmup: int | None


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.option(
    "--preset",
    "preset_name",
    shell_complete=complete.presets,
    help="Take model, length, GPU and sp from this preset.",
)
@click.option(
    "--model", shell_complete=complete.models, help="A name of `tgsbench models`, or a config.json."
)
@click.option("--seq-len", help="Sequence length, such as 32k.")
@click.option("--gpu", shell_complete=complete.gpus, help="GPU it ran on, such as A100-SXM4-80GB.")
@click.option("--num-gpus", type=click.IntRange(1), help="How many of them, where the log does not say.")
@click.option(
    "--global-batch",
    type=click.IntRange(1),
    help="Sequences of a step over all GPUs, for logs of times alone.",
)
@click.option("--format", "tool", help="Reader of the log, instead of the one that finds most in it.")
@click.option("--sp", type=click.IntRange(1), help="Sequence-parallel size.")
@click.option("--document-mask/--whole-pack", default=None, help="How attention was masked.")
@click.option("--warmup", type=click.IntRange(0), help="Logged steps to drop (3, or a third of a short log).")
@click.option("--name", help="Name of the row (the file's name).")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--dry-run", is_flag=True, help="Print what was read; store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_(
    file: Path, name: str | None, folder: Path | None, dry_run: bool, as_json: bool, **said: Any
) -> None:
    """Read another tool's log, scalars or CSV table; - reads stdin.

    Logs of XTuner, LLaMA-Factory, ms-swift, Transformers, TRL, Axolotl, torchtitan, Megatron-LM and its
    descendants, NeMo, DeepSpeed; exports of wandb; TensorBoard event files. The FLOPs convention of its
    TFLOPs is found by solving for it.
    """
    text, stem = (sys.stdin.read(), "pasted") if str(file) == "-" else (imported.read_text(file), file.stem)
    context = _context(name or stem, ImportOptions(**said))
    found = _read(text, file, context)
    if not dry_run:
        for row in found:
            imported.save(run_dir.runs_root(folder), row)
    if as_json:
        output.json(found)
        return
    for row in found:
        _print(row)


def _read(text: str, file: Path, context: Context) -> list[ImportedRow]:
    is_csv = file.suffix.lower() == ".csv" and not context.tool
    if logs.is_table(text) or (is_csv and not table_rows(text)):
        return imported.from_csv(text, context, _models())
    return [imported.from_log(text, context)]


def _models() -> dict[str, ModelShape]:
    return {name: presets.load_model(name) for name in catalog.files("presets", "models")}


def _context(name: str, said: ImportOptions) -> Context:
    """What the user says, over what the preset says."""
    base = presets.resolve(said.preset_name).preset if said.preset_name else None
    if base is None and (said.model is None or said.seq_len is None):
        raise TgsError(
            "a log does not say its model and length",
            hint="--preset llama2_7b_32k, or --model llama2_7b --seq-len 32k",
        )
    mask, seq_len = said.document_mask, said.seq_len
    return Context(
        name=imported.safe_name(name),
        model=base.model if base is not None and not said.model else presets.find_model(said.model or ""),
        seq_len=base.workload.seq_len if base is not None and not seq_len else read_length(seq_len or ""),
        gpu=known_gpu(said.gpu).name if said.gpu else (base.hardware.gpu if base else ""),
        num_gpus=said.num_gpus or (base.world_size if base else 0),
        tool=said.tool or "",
        global_batch=said.global_batch or 0,
        sp=said.sp or (base.parallel.sp if base else 1),
        document_mask=mask if mask is not None or base is None else base.workload.document_mask,
        preset=said.preset_name or "",
        checkpointing=base.training.checkpointing if base else "",
        warmup=said.warmup,
    )


def _print(found: ImportedRow) -> None:
    row = found.row
    assert row.tgs is not None
    samples = f" (n = {len(row.samples)})" if row.samples else ""
    output.line(f"{row.label}: {row.system}, TGS {units.rate(row.tgs)}{samples}")
    if found.identified is not None:
        which = found.identified.convention
        follows = f"follow the {which} convention" if which else "follow no convention known here"
        gpu = presets.find_gpu(row.gpu) if row.gpu else None
        output.line(f"  these TFLOPs ({units.rate(found.identified.tflops)}) {follows}")
        output.line(f"  in model terms: {model_terms(found.identified, gpu)}")
    if found.note:
        output.line(f"  {found.note}")
    output.line(f"  compare: tgsbench compare {row.label} OTHER")
