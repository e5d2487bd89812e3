"""What data means for training: lengths of its documents in tokens, and packs at several sequence lengths."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct

from tgsbench import units
from tgsbench.schema.preset import DataFormat, Workload
from tgsbench.workload import corpus, rows
from tgsbench.workload.documents import Documents, Int64, epoch_order, starts_of
from tgsbench.workload.packing import carry_bounds
from tgsbench.workload.packs import attended_len
from tgsbench.workload.tokenizer_files import find_tokenizer

_USUAL: Final = (8_192, 32_768, 131_072)
_LOCAL_TOKENS: Final = 16_384
"""Of a sequence on one GPU: what the reference's 1M tokens at sp 64 have."""
_SEED: Final = 42


class PackStats(Struct, frozen=True, kw_only=True):
    """Documents packed, shuffled, to one sequence length."""

    seq_len: int
    num_packs: int
    tokens_lost: int
    """The tail that fills no pack."""
    tokens_padded: int
    num_long: int
    """Documents longer than a pack, which `workload.long_documents` decides on."""
    attended_len: float
    """Σ len² / Σ len of documents as packs cut them: keys that a token's attention spans under a document
    mask, before the causal half; without the mask it spans the pack."""
    share_padded_unpacked: float
    """Padding if each document were a sequence of its own, cut to seq_len."""
    sp: int
    """Smallest power of two that leaves a GPU 16k tokens of a sequence or less."""


class DataStats(Struct, frozen=True, kw_only=True):
    """Lengths of documents in tokens, and what they mean."""

    data: str
    shown: str
    """What the data was taken for."""
    tokenizer: str
    num_documents: int
    num_tokens: int
    mean: float
    p50: int
    p95: int
    max: int
    packs: list[PackStats]


def tokens_of_data(
    workload: Workload, vocab_size: int, report: Callable[[str], None]
) -> tuple[Int64, str, str]:
    """Tokens of each document, int64 [n], what the data was taken for, and which tokenizer counted.

    Without a tokenizer one of `vocab_size` tokens is trained on the data. Raises TgsError for data that
    cannot be read.
    """
    source = corpus.source_of(workload)
    kind = rows.first_kind(source, workload.format)
    with tempfile.TemporaryDirectory(prefix="tgsbench-") as folder:
        if workload.tokenizer:
            files = find_tokenizer(workload.tokenizer)
            recipe = corpus.recipe_of(workload, files, source, kind)
            name = f"{files.name}, {files.vocab_size:,} tokens"
        else:
            recipe = corpus.trained_recipe(source, kind, vocab_size, "answers", Path(folder), report)
            name = f"BPE of {vocab_size:,} tokens trained on the data"
        lengths = corpus.measure_lengths(source, recipe, report)
    return lengths, corpus.describe(source, workload), name


def data_stats(
    data: str, shown: str, tokenizer: str, lengths: Int64, seq_lens: Sequence[int] = ()
) -> DataStats:
    """Statistics of documents of these lengths; without `seq_lens` at usual ones and those that hold most."""
    ordered = lengths[epoch_order(len(lengths), 1, _SEED)]
    p50, p95 = (int(np.percentile(lengths, q, method="inverted_cdf")) for q in (50, 95))
    return DataStats(
        data=data,
        shown=shown,
        tokenizer=tokenizer,
        num_documents=len(lengths),
        num_tokens=int(lengths.sum()),
        mean=float(lengths.mean()),
        p50=p50,
        p95=p95,
        max=int(lengths.max()),
        packs=[pack_stats(ordered, seq_len) for seq_len in seq_lens or _telling(lengths, p95)],
    )


def pack_stats(lengths: Int64, seq_len: int) -> PackStats:
    """Documents of these lengths, in this order, packed to one sequence length."""
    starts = starts_of(lengths)
    bounds = carry_bounds(starts, seq_len)
    cut = np.minimum(lengths, seq_len)
    return PackStats(
        seq_len=seq_len,
        num_packs=bounds.num_packs,
        tokens_lost=bounds.tokens_lost,
        tokens_padded=bounds.tokens_padded,
        num_long=int(np.count_nonzero(lengths > seq_len)),
        attended_len=attended_len(Documents(np.zeros(0, np.int32), starts), bounds, document_mask=True),
        share_padded_unpacked=1 - float(cut.sum()) / (len(lengths) * seq_len),
        sp=_power_of_two(-(-seq_len // _LOCAL_TOKENS)),
    )


def advice(stats: DataStats) -> list[str]:
    """What the lengths mean for sequence length and sp, in sentences."""
    holds_most, holds_all = _power_of_two(stats.p95), _power_of_two(stats.max)
    said = [
        f"{units.length(holds_most)} tokens hold 95 % of the documents, {units.length(holds_all)} the "
        f"longest; sp {_power_of_two(-(-holds_all // _LOCAL_TOKENS))} leaves a GPU "
        f"{units.length(_LOCAL_TOKENS)} tokens of that or less"
    ]
    longest = max(stats.packs, key=lambda row: row.seq_len, default=None)
    if longest is not None and longest.attended_len:
        factor = longest.seq_len / longest.attended_len
        said.append(
            f"at {units.length(longest.seq_len)} attention without a document mask spans {factor:,.1f} times "
            "the keys that it does with one: workload.document_mask=true measures the latter"
        )
    return said


def _telling(lengths: Int64, p95: int) -> list[int]:
    total = int(lengths.sum())
    wanted = {*_USUAL, _power_of_two(p95), _power_of_two(int(lengths.max()))}
    fitting = sorted(size for size in wanted if 256 <= size <= total)
    return fitting or [1 << (total.bit_length() - 1)]


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()


def stats_of(
    path: str, tokenizer: str, asked: DataFormat, vocab_size: int, report: Callable[[str], None]
) -> tuple[Int64, str, str]:
    """As `tokens_of_data`, for a path or a data set of the hub."""
    workload = Workload(seq_len=1, corpus=path, tokenizer=tokenizer, format=asked)
    return tokens_of_data(workload, vocab_size, report)
