"""A look at the beginning of the data and at the tokenizer's files, before anything is started for them.

Data that may be too small for one sequence are packed here already; ranks then find the packs in the cache.
"""

from __future__ import annotations

from pathlib import Path

from tgsbench.presets.data_names import corpus_kind
from tgsbench.schema import events
from tgsbench.schema.preset import Preset
from tgsbench.workload import corpus, rows
from tgsbench.workload.blocks import Source
from tgsbench.workload.histogram import read_histogram
from tgsbench.workload.prepare import prepare

_LOOK_BYTES = 4 << 20
"""Read and checked in a quarter of a second."""
_TOKEN_BYTES = 8
"""Of text, more than a token takes in the mean: what has more of it than a sequence can hold fills one."""
_MOST_BYTES = 32 << 20
"""Packed before ranks start, at most: 4 M tokens, of which two cores make 850,000 a second."""


def check(preset: Preset) -> events.Data | None:
    """What packing made of data so small that they could be less than one sequence; None for all others.

    Raises TgsError when data, tokenizer or histogram cannot be read, do not go together, or are too few.
    Problems further on in the data are found when it is tokenized.
    """
    workload = preset.workload
    kind = corpus_kind(workload.corpus)
    if kind == "lengths":
        if workload.lengths:
            read_histogram(Path(workload.lengths).expanduser())
        return None
    files = corpus.tokenizer_of(preset)
    if kind not in ("file", "hub"):
        return None
    source = corpus.source_of(workload)
    row_kind = rows.first_kind(source, workload.format)
    check_beginning(source, row_kind)
    if files is not None:
        corpus.recipe_of(workload, files, source, row_kind)
    return _packed(preset) if _may_be_few(preset, source) else None


def _may_be_few(preset: Preset, source: Source) -> bool:
    """Could all data be less than a sequence? For other systems they are packed before ranks start anyway."""
    # Of documents of which the long ones are dropped, any size may leave none.
    is_kept = preset.workload.long_documents != "drop"
    enough = min(_MOST_BYTES, _TOKEN_BYTES * preset.workload.seq_len) if is_kept else _MOST_BYTES
    return 0 < source.size <= enough and not preset.is_external


def _packed(preset: Preset) -> events.Data:
    num_packs = preset.packs_per_step * (preset.measure.warmup + preset.measure.steps)
    return prepare(preset, num_packs, lambda _: None).data


def check_beginning(source: Source, kind: str) -> None:
    """Raise TgsError for the first rows that are not of format `kind`, or when the source holds none."""
    seen = 0
    found = False
    for block in source.blocks():
        found = bool(rows.read_block(block, source.name, kind)) or found
        seen += block.size
        if seen >= _LOOK_BYTES:
            return
    if not found:
        raise rows.nothing_in(source.title)
