"""A look at the beginning of the data and at the tokenizer's files, before anything is started for them."""

from __future__ import annotations

from pathlib import Path

from tgsbench.presets.data_names import corpus_kind
from tgsbench.schema.preset import Preset
from tgsbench.workload import corpus, rows
from tgsbench.workload.blocks import Source
from tgsbench.workload.histogram import read_histogram

_LOOK_BYTES = 4 << 20
"""Read and checked in a quarter of a second."""


def check(preset: Preset) -> None:
    """Raise TgsError when data, tokenizer or histogram cannot be read, or do not go together.

    Problems further on in the data are found when it is tokenized.
    """
    workload = preset.workload
    kind = corpus_kind(workload.corpus)
    if kind == "lengths":
        if workload.lengths:
            read_histogram(Path(workload.lengths).expanduser())
        return
    files = corpus.tokenizer_of(preset)
    if kind not in ("file", "hub"):
        return
    source = corpus.source_of(workload)
    row_kind = rows.first_kind(source, workload.format)
    check_beginning(source, row_kind)
    if files is not None:
        corpus.recipe_of(workload, files, source, row_kind)


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
