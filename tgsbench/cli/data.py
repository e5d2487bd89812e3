"""`tgsbench data`: lengths of a data set's documents in tokens, and what they mean for a sequence length."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from tgsbench import units
from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets.data_names import CORPORA, corpus_kind
from tgsbench.schema.preset import DataFormat

_SAY_EVERY_S = 5.0


@click.group()
def data() -> None:
    """Look at data of your own before it is trained on."""


@data.command(short_help="Documents' lengths in tokens, and packs.")
@click.argument("source")
@click.option(
    "--tokenizer", default="", help="Folder, tokenizer.json or hub name (default: a BPE of the data)."
)
@click.option("--seq-len", "seq_lens", multiple=True, help="Sequence length to pack to; may be repeated.")
@click.option(
    "--format", "asked", type=click.Choice(get_args(DataFormat)), default="auto", help="Of the rows."
)
@click.option("--vocab-size", default=32_000, show_default=True, help="Of the BPE, without --tokenizer.")
@click.option("--histogram", default="", help="Also write length,count to this file, for workload.lengths.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def stats(
    source: str,
    tokenizer: str,
    seq_lens: tuple[str, ...],
    asked: DataFormat,
    vocab_size: int,
    histogram: str,
    as_json: bool,
) -> None:
    """Lengths of documents in tokens, and packs at several sequence lengths.

    SOURCE is a file or folder, or NAME:SPLIT of the hub.
    """
    sizes = [_length(text) for text in seq_lens]
    is_told = corpus_kind(source) in ("file", "hub") and source not in CORPORA
    name = source if is_told else f"./{source}"
    stats_module, histogram_module = _modules()
    lengths, shown, counted_by = stats_module.stats_of(name, tokenizer, asked, vocab_size, _progress())
    diagnostics.status("")
    if histogram:
        histogram_module.write_histogram(histogram_module.of_lengths(lengths), Path(histogram))
        diagnostics.note(f"{histogram}: --set workload.corpus=lengths --set workload.lengths={histogram}")
    found = stats_module.data_stats(source, shown, counted_by, lengths, sizes)
    if as_json:
        output.json(found)
        return
    _print(found, stats_module.advice(found))


def _modules() -> tuple[Any, Any]:
    try:
        from tgsbench.workload import histogram, stats
    except ImportError as error:
        from tgsbench.install import pip_install

        raise TgsError(
            f"data needs the package {error.name}, which is not installed",
            hint=pip_install("train"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    return stats, histogram


def _print(found: Any, advice: list[str]) -> None:
    output.line(f"data        {found.data}, {found.shown}")
    output.line(f"tokenizer   {found.tokenizer}")
    output.line(f"documents   {found.num_documents:,} of {found.num_tokens:,} tokens")
    output.line(
        f"lengths     mean {found.mean:,.1f}, p50 {found.p50:,}, p95 {found.p95:,}, max {found.max:,}"
    )
    output.line()
    head = ("seq_len", "packs", "lost", "padded", "unpacked", "longer", "attended", "sp")
    rows = [head, *(_cells(row, found.num_tokens) for row in found.packs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        output.line("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    output.line()
    output.line("unpacked: padding if each document were a sequence; longer: documents longer than a pack;")
    output.line("attended: keys a token's attention spans under a document mask; sp: for 16k tokens a GPU")
    for sentence in advice:
        output.line(sentence)


def _cells(row: Any, num_tokens: int) -> tuple[str, ...]:
    packed = row.num_packs * row.seq_len
    return (
        units.length(row.seq_len),
        f"{row.num_packs:,}",
        units.percent(row.tokens_lost / num_tokens),
        units.percent(row.tokens_padded / packed if packed else 0.0),
        units.percent(row.share_padded_unpacked),
        f"{row.num_long:,}",
        f"{row.attended_len:,.0f}",
        str(row.sp),
    )


def _length(text: str) -> int:
    try:
        size = units.parse_length(text)
    except ValueError as error:
        raise TgsError(f"--seq-len {text}: {error}") from error
    if size < 1:
        raise TgsError(f"--seq-len {text}: must be at least 1")
    return size


def _progress() -> Callable[[str], None]:
    """Says on stderr how far it is: in one line where a person looks, else a line now and then."""
    said_at = -_SAY_EVERY_S

    def report(line: str) -> None:
        nonlocal said_at
        if sys.stderr.isatty():
            diagnostics.status(line)
        elif time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            diagnostics.note(line)

    return report
