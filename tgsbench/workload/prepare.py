"""From a preset to packs on disk: corpus, shuffled stream, pack borders, and whether they may be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema import events
from tgsbench.schema.preset import Preset, Workload
from tgsbench.workload import cache
from tgsbench.workload.blocks import bad_data
from tgsbench.workload.corpus import MAX_TOKENS, Corpus, choose
from tgsbench.workload.documents import Documents, Int64, epoch_order, gathered, starts_of
from tgsbench.workload.packing import Bounds, carry_bounds, stock_bounds
from tgsbench.workload.packs import PackedDataset, attended_len, count_labels

MIN_MEAN_FILL = 0.99
"""A mean pack below this share of seq_len is another benchmark than the one asked for."""


def prepare(preset: Preset, num_packs: int, report: Callable[[str], None]) -> PackedDataset:
    """Build the packs that a run of `num_packs` sequences reads, or load them from the cache.

    `report` is told of each slow stage. Raises TgsError with BAD_DATA when the corpus cannot be read or
    cannot fill the sequences, MISSING_DEPENDENCY when a package for it is not installed.
    """
    workload = preset.workload
    corpus = choose(preset, num_packs, report)
    kept = _stream(corpus, workload, report)
    stream = Documents(kept.arrays["coded"], kept.arrays["starts"])
    bounds = pack_bounds(stream.starts, workload)
    warnings = corpus.warnings + check_packs(bounds, corpus.name, stream.num_documents, workload, num_packs)
    if kept.problem:
        warnings.append(_cache_warning(kept.problem))
    return PackedDataset(
        stream,
        bounds,
        workload.document_mask,
        count_labels(stream, bounds, workload.document_mask),
        _data(corpus, stream, bounds, workload, kept.hit, num_packs, _treated(kept, stream, workload)),
        warnings,
    )


def pack_bounds(document_starts: Int64, workload: Workload) -> Bounds:
    """Pack borders by the preset's packing rule."""
    if workload.packing == "carry":
        return carry_bounds(document_starts, workload.seq_len)
    return stock_bounds(document_starts, workload.seq_len, workload.map_batch_size, workload.map_num_proc)


def check_packs(
    bounds: Bounds, corpus: str, num_documents: int, workload: Workload, num_packs: int
) -> list[events.Warn]:
    """Refuse packs that are too short; under `xtuner_stock`, which makes such packs, warn instead.

    A run reads `num_packs`, repeating what there is.

    Raises TgsError when the mean pack is too short and packing is another.
    """
    fill = bounds.mean_pack_tokens / bounds.seq_len
    if fill >= MIN_MEAN_FILL:
        return []
    size = units.length(bounds.seq_len)
    mean = f"the mean pack holds {bounds.mean_pack_tokens:,.0f} of {size} tokens ({units.percent(fill)})"
    if workload.packing == "xtuner_stock":
        hint = "--set workload.packing=carry fills every pack; results with short packs are not comparable"
        num_short = bounds.num_packs - bounds.num_full
        msg = f"xtuner_stock packing: {num_short:,} of {bounds.num_packs:,} packs are short; {mean}"
        return [events.Warn(code="short_packs", msg=msg, hint=hint)]
    # Carry packing leaves a short pack only where the whole corpus is shorter than one sequence.
    raise TgsError(
        f"corpus {corpus} holds {bounds.num_tokens:,} tokens in "
        f"{units.counted(num_documents, 'document')}, too few for one sequence of {size}, and the run takes "
        f"{num_packs:,}: {mean}, at least {units.percent(MIN_MEAN_FILL)} is needed",
        hint=_cures(bounds, workload),
        exit_code=ExitCode.BAD_DATA,
    )


def _cures(bounds: Bounds, workload: Workload) -> str:
    """Sequence length or repetition that would do."""
    fitting = 1 << (bounds.num_tokens.bit_length() - 1)
    repeats = workload.concat * -(-workload.seq_len // bounds.num_tokens)
    return f"--set workload.seq_len={fitting}, or --set workload.concat={repeats}, or a larger corpus"


class Treated(NamedTuple):
    """What became of documents longer than a sequence, over all repetitions of the corpus."""

    num_long: int
    tokens_left_out: int


def treat_long(lengths: Int64, workload: Workload) -> Int64:
    """Tokens to take of each document, int64 [n], as `workload.long_documents` wants; 0: it is dropped.

    `split` takes all: packing cuts the stream. Raises TgsError when `drop` leaves nothing.
    """
    if workload.long_documents == "split":
        return lengths
    if workload.long_documents == "cut":
        return np.minimum(lengths, workload.seq_len)
    kept = np.where(lengths > workload.seq_len, 0, lengths)
    if not kept.any():
        raise bad_data(
            f"each of the {units.counted(len(lengths), 'document')} is longer than "
            f"{units.length(workload.seq_len)} tokens, and workload.long_documents=drop leaves none",
            "--set workload.long_documents=split, or a longer sequence: --set workload.seq_len=N",
        )
    return kept


def _stream(corpus: Corpus, workload: Workload, report: Callable[[str], None]) -> cache.Cached:
    def write(folder: Path) -> None:
        documents = corpus.documents()
        sizes = treat_long(documents.lengths, workload)
        num_tokens = int(sizes.sum())
        _refuse_too_many(num_tokens, workload.concat)
        report(f"shuffling {num_tokens * workload.concat:,} tokens")
        order = epoch_order(documents.num_documents, workload.concat, workload.seed)
        order = order[sizes[order] > 0] if workload.long_documents == "drop" else order
        coded = cache.ArrayWriter(folder, "coded", np.int32)
        for part in gathered(documents, order, sizes):
            coded.append(part)
        coded.close()
        np.save(folder / "starts.npy", starts_of(sizes[order]))
        num_long = int(np.count_nonzero(documents.lengths > workload.seq_len))
        treated = Treated(num_long, documents.num_tokens - num_tokens)
        np.save(folder / "treated.npy", np.array(treated, np.int64) * workload.concat)

    key: dict[str, object] = {**corpus.key, "concat": workload.concat, "shuffle": workload.seed}
    if workload.long_documents != "split":  # else one stream serves every length
        key |= {"long": workload.long_documents, "seq_len": workload.seq_len}
    return cache.load_or_stream("packs", key, ("coded", "starts", "treated"), write)


def _treated(kept: cache.Cached, stream: Documents, workload: Workload) -> Treated:
    if workload.long_documents == "split":
        return Treated(int(np.count_nonzero(stream.lengths > workload.seq_len)), 0)
    return Treated(*kept.arrays["treated"].tolist())


def _refuse_too_many(num_tokens: int, concat: int) -> None:
    if num_tokens * concat > MAX_TOKENS:
        raise TgsError(
            f"workload.concat={concat} makes {num_tokens * concat:,} tokens of {num_tokens:,}, "
            f"more than the {MAX_TOKENS:,} that are shuffled at most",
            hint=f"--set workload.concat={max(1, MAX_TOKENS // num_tokens)} or less; longer runs wrap around",
            exit_code=ExitCode.BAD_DATA,
        )


def _data(
    corpus: Corpus,
    stream: Documents,
    bounds: Bounds,
    workload: Workload,
    cached: bool,
    num_packs: int,
    treated: Treated,
) -> events.Data:
    notes = [corpus.note] if corpus.note else []
    if num_packs > bounds.num_packs:
        notes.append(
            f"{units.counted(bounds.num_packs, 'pack')} an epoch, repeated for the run's {num_packs:,}"
        )
    return events.Data(
        corpus=corpus.name,
        num_documents=stream.num_documents,
        num_tokens=stream.num_tokens,
        num_full=bounds.num_full,
        num_short=bounds.num_packs - bounds.num_full,
        mean_pack_tokens=bounds.mean_pack_tokens,
        tokens_lost=bounds.tokens_lost,
        tokens_padded=bounds.tokens_padded,
        attended_len=attended_len(stream, bounds, workload.document_mask),
        cached=cached,
        num_long=treated.num_long,
        tokens_left_out=treated.tokens_left_out,
        note="; ".join(notes),
    )


def _cache_warning(problem: str) -> events.Warn:
    return events.Warn(
        code="cache_unwritable",
        msg=f"packs are kept in memory, every rank its own: {problem}",
        hint="set XDG_CACHE_HOME to a folder that can be written",
    )
