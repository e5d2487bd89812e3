"""Published rows as work for the planner: two CSV layouts, told apart by their header.

`calibration` layout (benchmarks/data/calibration.csv): one row holds the whole shape, the micro-batch and
the checkpointing. `speed` layout (benchmarks/data/xtuner_speed_benchmark.csv): a row names a preset, or a
model of presets/models, with GPUs, length and sp. Rows that cannot be planned keep their reason.
"""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

from msgspec import Struct

from benchmarks import row_notation
from tgsbench import presets, units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.family import Dims, attention_weights, mlp_weights
from tgsbench.planner.workload import StepWorkload, dims_of, work_of
from tgsbench.presets import catalog
from tgsbench.schema.hardware import GpuSpec, Link
from tgsbench.schema.preset import Checkpointing, Preset
from tgsbench.systems.costs import System
from tgsbench.systems.registry import find_system, systems

DATA = Path(__file__).parent / "data"
CALIBRATION = DATA / "calibration.csv"
OTHERS = (DATA / "other_stacks.csv", DATA / "published_2026.csv")
"""Rows of other stacks, in the calibration layout."""
KERNELS = DATA / "attention_kernels.csv"
REFERENCE_LINK, REFERENCE_GPU = "reference_a100", "A100-SXM4-80GB"
"""The cluster of the two speed tables."""
SPEED_SOURCES = {"xtuner": "InternLM/xtuner", "llamafactory": "InternLM/xtuner (LLaMA-Factory rows)"}
XTUNER = DATA / "xtuner_speed_benchmark.csv"
LLAMA_FACTORY = DATA / "llamafactory_speed_benchmark.csv"


def link_rows() -> dict[str, str]:
    """Constants of the reference cluster's network and the row each may be fitted on (data/link_rows.csv)."""
    with (DATA / "link_rows.csv").open(encoding="utf-8", newline="") as file:
        return {raw["constant"]: raw["row"] for raw in csv.DictReader(file)}


class Row(Struct, frozen=True, kw_only=True):
    """One published row that the planner can be asked about."""

    label: str
    source: str
    """Repository that published it."""
    work: StepWorkload
    gpu: GpuSpec
    link: Link
    tgs: float | None
    """None: it ran out of memory."""
    note: str = ""


class Unplanned(Struct, frozen=True):
    """A row that the planner has no model of, and why."""

    label: str
    reason: str


def read_rows(path: Path, system: str = "", link: str = "") -> tuple[list[Row], list[Unplanned]]:
    """Every row of a CSV file of either layout; `system` and `link` replace what the rows imply.

    Raises TgsError for a file that is no table, or one without a column that neither layout can spare.
    """
    header, raw_rows = _table(path)
    missing = _needed(header) - set(header)
    if missing:
        raise TgsError(
            f"{path}: no column {', '.join(sorted(missing))}; its columns: {', '.join(header) or 'none'}",
            hint="see benchmarks/data/calibration.csv and xtuner_speed_benchmark.csv for the two layouts",
            exit_code=ExitCode.BAD_INPUT,
        )
    rows: list[Row] = []
    unplanned: list[Unplanned] = []
    for index, raw in enumerate(raw_rows):
        label = _label(raw, index)
        try:
            rows.append(_row(raw, label, system, link))
        except (ValueError, KeyError, TgsError) as error:
            reason = error.msg if isinstance(error, TgsError) else str(error)
            reason = f"no column {reason}" if isinstance(error, KeyError) else reason
            unplanned.append(Unplanned(label, reason.split("\n")[0]))
    return rows, unplanned


def assumptions(path: Path) -> list[str]:
    """What is taken for granted because the table has no column for it."""
    header, _ = _table(path)
    assumed = _SPEED_ASSUMED if "preset" in header else _SHAPE_ASSUMED
    return [f"no column {name}: {what}" for name, what in assumed.items() if name not in header]


_SHAPE_ASSUMED = {
    "global_batch_tokens_or_microbatch": "micro-batch 1, accumulation 1",
    "parallelism": "sharded data parallelism, sp 1",
    "activation_ckpt": "no checkpointing",
}
_SPEED_ASSUMED = {"sp": "sp 1 in every row, a system without sequence parallelism"}


def _needed(header: list[str]) -> set[str]:
    """Columns without which no row of the table's layout can be planned."""
    if "preset" in header:
        return {"num_gpus", "tgs"}
    return {"layers", "hidden", "heads", "intermediate", "vocab", "gpu", "gpus", "seq_len", "tgs"}


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV file's column names and rows; the cells of a short row are empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            return list(reader.fieldnames or []), list(reader)
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.BAD_INPUT) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TgsError(f"{path}: {error}", exit_code=ExitCode.BAD_INPUT) from error


def _label(raw: dict[str, str], index: int) -> str:
    if "preset" in raw:
        return raw["preset"]
    parts = (raw.get("model") or f"row {index + 1}", raw.get("gpu", ""), f"n{raw.get('gpus', '')}")
    return " ".join(part for part in (*parts, f"S{raw.get('seq_len', '')}") if part)


def _row(raw: dict[str, str], label: str, system: str, link: str) -> Row:
    return _speed_row(raw, label, system, link) if "preset" in raw else _shape_row(raw, label, system, link)


def _shape_row(raw: dict[str, str], label: str, system: str, link: str) -> Row:
    """A row of the calibration layout."""
    note, gpu = raw.get("note", ""), find_row_gpu(raw["gpu"])
    how = raw.get("parallelism", "")
    known = _known_dims(raw)
    words = f"{raw.get('model', '')}; {how}; {note}"
    row_notation.refuse_other_training(words, experts_known=known is not None)
    num_gpus, seq_len = _count(raw, "gpus"), units.parse_length(raw["seq_len"])
    sharding = row_notation.read_parallelism(how, num_gpus)
    batch = _batch(raw, num_gpus, sharding.sp, seq_len)
    mode, away = _checkpointing(raw)
    stack = find_system(system) if system else _row_system(raw, sharding.ring)
    work = StepWorkload(
        dims=known or shape_dims(raw),
        system=stack,
        seq_len=seq_len,
        attended_len=float(seq_len),
        kernel=_named_kernel(note) or (sharding.ring > 1 and stack.ring_kernel) or "flash2",
        sp=sharding.sp,
        ring=sharding.ring,
        world=num_gpus,
        micro_batch=batch.micro_batch,
        accumulation=batch.accumulation,
        checkpointing=mode,
        zero_stage=sharding.zero_stage,
        shard_ranks=sharding.shard_ranks,
        regather=sharding.regather,
        offload=sharding.offload,
        activation_offload=away or row_notation.says_yes("act-ckpt cpu offload", note),
        tiled_mlp=row_notation.says_yes("tiled_mlp", note),
        fused_ops=sharding.compiled or "compile" in note.lower() or row_notation.says_yes("liger", note),
        loss_chunk_tokens=LOSS_CHUNK if row_notation.chunks_loss(note) else 0,
        fp8=sharding.fp8 or row_notation.is_fp8(note),
    )
    return Row(
        label=f"{label} b{batch.micro_batch}x{batch.accumulation}" + (" fp8" if work.fp8 else ""),
        source=raw.get("source_repo", ""),
        work=work,
        gpu=gpu,
        link=_row_link(link, gpu),
        tgs=_tgs(raw),
        note=note,
    )


def _batch(raw: dict[str, str], num_gpus: int, sp: int, seq_len: int) -> row_notation.Batch:
    """The row's batch; a table without the column has micro-batch 1."""
    text = raw.get("global_batch_tokens_or_microbatch")
    if text is None:
        return row_notation.Batch(1, 1)
    if row_notation.is_one_micro_step(text):
        return row_notation.Batch(_sequences_of_step(raw, sp, seq_len), 1)
    whole = "batch size is global" in raw.get("note", "")
    return row_notation.read_batch(text, num_gpus, sp, seq_len, is_global=whole)


def _sequences_of_step(raw: dict[str, str], sp: int, seq_len: int) -> int:
    """Sequences of a step whose seconds the note gives: of TGS · seconds · sp tokens.

    Raises ValueError where these are no whole number of sequences.
    """
    seconds, tgs = row_notation.seconds_of_micro_step(raw.get("note", "")), _tgs(raw)
    if seconds is None or tgs is None:
        raise ValueError("batch 'micro batch step': the micro-batch is not said")
    sequences = tgs * seconds * sp / seq_len
    if round(sequences) < 1 or abs(sequences / round(sequences) - 1) > _ROUNDED:
        raise ValueError(f"batch: {tgs:g} tokens/GPU/s for {seconds:g} s are {sequences:.2f} sequences")
    return round(sequences)


def _checkpointing(raw: dict[str, str]) -> tuple[Checkpointing, bool]:
    """Mode and offload; a table without the column has none."""
    text = raw.get("activation_ckpt")
    return ("none", False) if text is None else row_notation.read_checkpointing(text)


_KERNELS = {
    "flash2": r"\bFA-?2\b",
    "flash3": r"flash-?\s?att\w*-?\s?3|\bFA-?3\b",
    "cudnn": r"cudnn|transformer.?engine|\bTE\b",
}


def _named_kernel(note: str) -> str:
    """The attention kernel that a note names, or nothing."""
    return next((name for name, words in _KERNELS.items() if re.search(words, note, re.IGNORECASE)), "")


def _tgs(raw: dict[str, str]) -> float | None:
    """Published TGS; None when the row says that it ran out of memory, ValueError when it says nothing."""
    text = raw.get("tgs") or ""
    if raw.get("status", "").lower() == "oom" or text.strip().lower().startswith(("oom", "out of mem")):
        return None
    value = _number(text)
    if value is None:
        raise ValueError(f"no TGS in the row: {text!r}")
    return value


def _row_system(raw: dict[str, str], ring: int) -> System:
    """The stack of a row's repository where it is described, else this project's engine."""
    repo = re.sub(r"[^a-z0-9]+", "_", raw.get("source_repo", "").lower())
    known = systems()
    found = next((s for name, s in known.items() if name in repo), find_system("fsdp2"))
    return known.get(f"{found.name}_ring", found) if ring > 1 else found


LOSS_CHUNK = 2048
"""Tokens of a chunk of the logits, where a row says that there are chunks and not their size."""
_ROUNDED = 0.03
"""How far rounded figures of a row may put a whole number of sequences off."""


def _known_dims(raw: dict[str, str]) -> Dims | None:
    """Widths of a model of presets/models by its name, where the row's layers and width are that model's."""
    for name in catalog.files("presets", "models"):
        shape = catalog.load_model(name)
        if (shape.name, str(shape.num_layers), str(shape.hidden_size)) == _told(raw):
            dims = dims_of(shape)
            return dims if dims.routed else None
    return None


def _told(raw: dict[str, str]) -> tuple[str, str, str]:
    return raw.get("model", ""), raw.get("layers", ""), raw.get("hidden", "")


_USUAL_HEAD_DIM = 128
"""Width of a head in models whose heads together are wider than the hidden size."""
_THAT, _NEARER = 0.015, 4.0
"""Heads of 128 are taken where they give the parameter count this well, and so many times as near."""
_OTHER_SHAPE = 0.2
"""A parameter count further off than this is of another model: experts, an encoder, latent attention."""


def shape_dims(raw: dict[str, str]) -> Dims:
    """A row's dimensions; the parameter count tells a gated from a plain MLP, a tied head, wider heads."""
    layers, hidden, inter = (_count(raw, name) for name in ("layers", "hidden", "intermediate"))
    heads, vocab = _count(raw, "heads"), _count(raw, "vocab")
    kv_heads = _count(raw, "kv_heads") if raw.get("kv_heads") else heads
    billions = _number(raw.get("params_b", ""))
    said_width = _count(raw, "head_dim") if raw.get("head_dim") else hidden // heads

    def count(matrices: int, tied: bool, head_dim: int) -> int:
        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
        return layers * (attention + matrices * hidden * inter) + (1 if tied else 2) * vocab * hidden

    target = billions * 1e9 if billions else count(3, False, said_width)

    def off(choice: tuple[int, bool, int]) -> float:
        return abs(count(*choice) / target - 1)

    def nearest(width: int) -> tuple[int, bool, int]:
        return min(itertools.product((2, 3), (True, False), (width,)), key=off)

    best, wider = nearest(said_width), nearest(_USUAL_HEAD_DIM)
    if not raw.get("head_dim") and off(wider) < min(_THAT, off(best) / _NEARER):
        best = wider
    matrices, tied, head_dim = best
    counted = count(*best)
    if off(best) > _OTHER_SHAPE:
        said = f"{counted / 1e9:.3g} B parameters follow from its widths"
        raise ValueError(f"params_b {billions:g}: {said}, so it is no dense decoder of these")
    return Dims(
        num_layers=layers,
        hidden=hidden,
        intermediate=inter,
        query_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        mlp_matrices=matrices,
        norm_width=2 * hidden,
        attention=attention_weights(hidden, heads, kv_heads, head_dim),
        mlp=mlp_weights(hidden, inter, matrices),
        tied=tied,
        num_parameters=int(target) if billions else counted,
    )


def _speed_row(raw: dict[str, str], label: str, system: str, link: str) -> Row:
    """A row of the speed layout; the LLaMA-Factory table has a status and no sp column.

    Both tables come from one cluster, so its network is theirs unless another is named.
    """
    found = system or ("xtuner" if "sp" in raw else "llamafactory")
    sp = _count(raw, "sp") if raw.get("sp") else 1
    preset = _named_preset(raw, sp)
    gpu = find_row_gpu(raw.get("gpu") or preset.hardware.gpu)
    return Row(
        label=label,
        source=SPEED_SOURCES.get(found, found),
        work=work_of(preset, "flash2", system=find_system(found)),
        gpu=gpu,
        link=_row_link(link or (REFERENCE_LINK if gpu.name == REFERENCE_GPU else ""), gpu),
        tgs=_tgs(raw),
    )


def _named_preset(raw: dict[str, str], sp: int) -> Preset:
    """The row's preset, or the reference settings with the row's model."""
    sets = [f"parallel.sp={sp}", f"hardware.num_gpus={_count(raw, 'num_gpus')}"]
    if raw.get("seq_len"):
        sets.append(f"workload.seq_len={raw['seq_len']}")
    if raw["preset"] in catalog.list_presets():
        return presets.resolve(raw["preset"], sets).preset
    model = next((n for n in catalog.files("presets", "models") if _model_is(n, raw.get("model", ""))), "")
    if not model:
        raise ValueError(f"no preset {raw['preset']!r} and no model {raw.get('model')!r} in presets/models")
    return presets.resolve("_reference", [f"model={model}", *sets]).preset


def _model_is(name: str, wanted: str) -> bool:
    return wanted in (name, catalog.load_model(name).name)


def find_row_gpu(text: str) -> GpuSpec:
    """A GPU by key, driver name, or words such as "a100_80gb"; the larger SXM card if none is said."""
    exact = catalog.find_gpu(text)
    if exact is not None:
        return exact
    words = set(re.findall(r"[a-z0-9]+", text.lower())) - {"nvidia", "gpu", "hbm2e", "hbm3", "hbm3e"}
    matching = [gpu for name, gpu in catalog.load_gpus().items() if words and _says(name.lower(), words)]
    if not matching:
        raise ValueError(f"unknown GPU {text!r}")
    return min(matching, key=lambda gpu: ("SXM" not in gpu.name, -gpu.memory_gib))


def _says(name: str, words: set[str]) -> bool:
    """Does each word begin a part of the name? "sxm" begins sxm5, "80g" begins 80gb; h20 begins no h200."""
    return all(re.search(rf"(?<![a-z0-9]){re.escape(word)}{_ends(word)}", name) for word in words)


def _ends(word: str) -> str:
    return "(?![a-z0-9])" if word[-1].isdigit() else ""


def _row_link(name: str, gpu: GpuSpec) -> Link:
    from tgsbench.planner.machine import find_link

    return find_link(name, gpu)


def _count(raw: dict[str, str], column: str) -> int:
    """A positive whole number of a row; ValueError names its column."""
    text = raw[column].replace(",", "").strip()
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{column}: {raw[column]!r} is no positive whole number")
    return int(text)


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if value > 0 else None
