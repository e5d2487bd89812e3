"""Which documents a preset trains on, and what the user should know about them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets.data_names import corpus_kind, data_path
from tgsbench.schema import events
from tgsbench.schema.preset import Preset, Workload
from tgsbench.workload import cache, histogram, hub, lengths, pydoc, rows, tokenizer
from tgsbench.workload.blocks import DataBlock, Source, bad_data, open_source
from tgsbench.workload.documents import Documents, Int32, Int64, starts_of
from tgsbench.workload.encoding import EncodingRecipe, Labels, needs_chat_template, no_chat_template
from tgsbench.workload.rows import CorpusRow
from tgsbench.workload.tokenizer_files import (
    TokenizerFiles,
    check_vocabulary,
    find_tokenizer,
    own_tokenizer,
)
from tgsbench.workload.workers import encode_all

Report = Callable[[str], None]

MAX_TOKENS = 2**31
"""Tokens of a corpus, and of a shuffled stream: 8 GiB on disk, 70 times the reference's corpus."""
_READER = 2
"""Raised when the same data becomes other tokens."""
_TRAIN_BLOCKS = 8
_TRAIN_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Corpus:
    """Documents in file order, built when asked for; `key` identifies their content."""

    name: str
    key: dict[str, object]
    documents: Callable[[], Documents]
    note: str = ""
    warnings: list[events.Warn] = field(default_factory=list)


@dataclass(frozen=True)
class _Data:
    """Text to be tokenized."""

    name: str
    identity: dict[str, object]
    """Of its content."""
    open: Callable[[], Source]
    """Not called where the tokens are kept from before."""
    told: str = ""
    """What is read, for whoever waits; empty: the name."""
    shown: str = ""
    """What the data was taken for."""


def choose(preset: Preset, num_packs: int, report: Report) -> Corpus:
    """The preset's corpus; without the hub, random tokens of Alpaca's lengths and a warning.

    Raises TgsError (BAD_DATA) for data or a tokenizer that cannot be read, or do not go together.
    """
    kind = corpus_kind(preset.workload.corpus)
    if kind == "lengths":
        return _lengths(preset, num_packs, report)
    if kind == "pydoc":
        return _text(_pydoc(), preset, report)
    if kind != "alpaca":
        return _text(_hub(preset.workload) if kind == "hub" else _file(preset.workload), preset, report)
    try:
        return _alpaca(preset, report)
    except hub.HubUnavailable as unavailable:
        return _fallback(_lengths(preset, num_packs, report), str(unavailable), report)


def source_of(workload: Workload) -> Source:
    """The rows of a corpus of the user's own. Raises TgsError when it cannot be opened."""
    if corpus_kind(workload.corpus) == "hub":
        return hub.open_dataset(workload.corpus).source
    return open_source(data_path(workload), workload.format)


def tokenizer_of(preset: Preset) -> TokenizerFiles | None:
    """The tokenizer that the preset names, or that is its model's own; None: one is trained on the corpus.

    Raises TgsError when the named one cannot be had, or has more ids than the model.
    """
    if not preset.workload.tokenizer:
        return own_tokenizer(preset)
    found = find_tokenizer(preset.workload.tokenizer)
    check_vocabulary(found, preset)
    return found


def labels_of(workload: Workload, files: TokenizerFiles | None) -> Labels:
    """What is trained on: as asked, else answers in the reference's template and all in a tokenizer's own."""
    if workload.labels != "auto":
        return workload.labels
    return "all" if files is not None and files.chat_template else "answers"


def recipe_of(workload: Workload, files: TokenizerFiles, source: Source, kind: str) -> EncodingRecipe:
    """How rows become tokens of a tokenizer.

    Raises TgsError when it has no chat template and they need one.
    """
    if needs_chat_template(kind) and not files.chat_template:
        raise no_chat_template(files.name, kind)
    return EncodingRecipe(
        str(files.path),
        source.name,
        kind,
        labels_of(workload, files),
        False,
        files.name,
        files.chat_template,
        tuple(sorted(files.specials.items())),
    )


def _fallback(corpus: Corpus, reason: str, report: Report) -> Corpus:
    msg = f"corpus alpaca cannot be had ({reason}); random tokens of its document lengths take its place"
    report(msg)
    hint = "give the run access to the hub, or a file of your own: workload.corpus=PATH"
    warn = events.Warn(code="corpus_fallback", msg=msg, hint=hint)
    return Corpus(corpus.name, corpus.key, corpus.documents, f"in place of alpaca: {reason}", [warn])


def _lengths(preset: Preset, num_packs: int, report: Report) -> Corpus:
    vocab_size, seed = preset.model.vocab_size, preset.workload.seed
    if preset.workload.lengths and corpus_kind(preset.workload.corpus) == "lengths":
        return _own_lengths(preset, num_packs, report)
    num_documents = lengths.documents_needed(preset, num_packs)

    def documents() -> Documents:
        report(f"drawing {num_documents:,} documents of Alpaca's lengths")
        return lengths.draw_documents(num_documents, vocab_size, seed)

    key = {"corpus": "lengths", "vocab": vocab_size, "seed": seed, "documents": num_documents}
    return Corpus("lengths", key, documents)


def _own_lengths(preset: Preset, num_packs: int, report: Report) -> Corpus:
    path = Path(preset.workload.lengths).expanduser()
    found = histogram.read_histogram(path)
    vocab_size, seed = preset.model.vocab_size, preset.workload.seed
    num_documents = lengths.documents_for(preset, num_packs, found.mean, int(found.lengths[-1]))

    def documents() -> Documents:
        report(f"drawing {num_documents:,} documents of the lengths in {path}")
        return histogram.draw_histogram(found, num_documents, vocab_size, seed)

    key = {"corpus": "lengths", "vocab": vocab_size, "seed": seed, "documents": num_documents}
    digest = hashlib.sha256(found.lengths.tobytes() + found.counts.tobytes()).hexdigest()
    return Corpus("lengths", key | {"histogram": digest}, documents, f"lengths of {path}")


def _pydoc() -> _Data:
    told = "reading the docstrings of Python's standard library"
    return _Data("pydoc", {"sources": pydoc.fingerprint()}, lambda: _held("pydoc", pydoc.read_rows()), told)


def _alpaca(preset: Preset, report: Report) -> Corpus:
    data = _Data(
        "alpaca", {}, lambda: _held("alpaca", hub.read_rows()), "reading Alpaca (en and zh) from the hub"
    )
    # Asked before the cache's lock is taken: ranks that find no hub find it out side by side.
    if not cache.entry_path("corpora", _key(data, preset, tokenizer_of(preset))).exists():
        hub.require()
    return _text(data, preset, report)


def _file(workload: Workload) -> _Data:
    path = data_path(workload)
    source = source_of(workload)
    name = "file" if workload.corpus == "file" else path.name
    return _Data(name, _digest(path), lambda: source, f"reading {path}", describe(source, workload))


def _hub(workload: Workload) -> _Data:
    found = hub.open_dataset(workload.corpus)
    shown = describe(found.source, workload)
    return _Data(workload.corpus, {"fingerprint": found.fingerprint}, lambda: found.source, shown=shown)


def describe(source: Source, workload: Workload) -> str:
    """What data was taken for: its container and the format of its rows."""
    kind = rows.first_kind(source, workload.format)
    named = "" if workload.format == "auto" else ", as workload.format says"
    return f"{source.what} of format {kind or 'unknown'}{named}"


def _held(name: str, read: list[CorpusRow]) -> Source:
    """Rows that are in memory already."""
    values = tuple(enumerate((row._asdict() for row in read), start=1))
    return Source(
        f"{name}: row ", name, lambda: iter([DataBlock(1, values=values)]), kind="alpaca", held=True
    )


def _key(data: _Data, preset: Preset, files: TokenizerFiles | None) -> dict[str, object]:
    key: dict[str, object] = {"corpus": data.name, "reader": _READER, **data.identity}
    key |= {"labels": labels_of(preset.workload, files), "format": preset.workload.format}
    return key | ({"vocab": preset.model.vocab_size} if files is None else {"tokenizer": files.digest})


def _text(data: _Data, preset: Preset, report: Report) -> Corpus:
    """A corpus of real text, tokenized once and kept."""
    files = tokenizer_of(preset)
    key = _key(data, preset, files)

    def write(folder: Path) -> None:
        report(data.told or f"reading {data.name}")
        source = data.open()
        kind = rows.first_kind(source, preset.workload.format)
        with tempfile.TemporaryDirectory(prefix="tgsbench-") as scratch:
            if files is None:
                labels = labels_of(preset.workload, None)
                vocab_size = preset.model.vocab_size
                recipe = trained_recipe(source, kind, vocab_size, labels, Path(scratch), report)
            else:
                recipe = recipe_of(preset.workload, files, source, kind)
            write_tokens(source, recipe, folder, report)

    kept = cache.load_or_stream("corpora", key, ("coded", "starts"), write)
    documents = Documents(kept.arrays["coded"], kept.arrays["starts"])
    return Corpus(data.name, key, lambda: documents, _note(data, preset, files))


def _note(data: _Data, preset: Preset, files: TokenizerFiles | None) -> str:
    labels = labels_of(preset.workload, files)
    shown = f"{data.shown}; " if data.shown else ""
    if files is None:
        note = f"{shown}byte-level BPE of {preset.model.vocab_size:,} tokens trained on the corpus"
        return note if labels == "answers" else f"{note}, all tokens are targets"
    template = "its chat template" if files.chat_template else "the llama2_chat template"
    return f"{shown}tokenizer {files.name} of {files.vocab_size:,} tokens, {template}, targets: {labels}"


def trained_recipe(
    source: Source, kind: str, vocab_size: int, labels: Labels, folder: Path, report: Report
) -> EncodingRecipe:
    """A tokenizer trained on a sample of the source, and written into `folder`."""
    sample = sample_rows(source, kind)
    report(f"training a {vocab_size:,}-token BPE on {len(sample):,} documents")
    path = folder / "tokenizer.json"
    tokenizer.train(sample, vocab_size).save(str(path))
    return EncodingRecipe(str(path), source.name, kind, labels, True)


def sample_rows(source: Source, kind: str) -> list[CorpusRow]:
    """Rows from blocks all over the source, some 4 M characters; all rows where they are in memory."""
    block_bytes = 2 << 20
    num_blocks = max(1, -(-source.size // block_bytes))
    stride = 1 if source.held else max(1, num_blocks // _TRAIN_BLOCKS)
    room = None if source.held else _TRAIN_CHARACTERS // -(-num_blocks // stride)
    found: list[CorpusRow] = []
    for index, block in enumerate(source.blocks()):
        if index % stride == 0:
            read = [rows.plain_row(row) for _, row in rows.read_block(block, source.name, kind)]
            found += _first(read, room)
    return found


def _first(read: list[CorpusRow], room: int | None) -> list[CorpusRow]:
    """As many as `room` characters hold; at least one."""
    if room is None:
        return read
    sizes = np.cumsum([len(row.instruction) + len(row.input) + len(row.output) for row in read])
    return read[: 1 + int(np.searchsorted(sizes, room))]


def write_tokens(source: Source, recipe: EncodingRecipe, folder: Path, report: Report) -> None:
    """Tokenize a source into coded.npy and starts.npy.

    Raises TgsError for rows that cannot be read, for no row at all, and for more tokens than are kept.
    """
    coded = cache.ArrayWriter(folder, "coded", np.int32)
    lengths = measure_lengths(source, recipe, report, coded.append)
    coded.close()
    np.save(folder / "starts.npy", starts_of(lengths))


def measure_lengths(
    source: Source, recipe: EncodingRecipe, report: Report, keep: Callable[[Int32], None] | None = None
) -> Int64:
    """Tokenize a source: tokens of each document, int64 [n]; `keep` is handed the coded tokens.

    Raises TgsError for rows that cannot be read, for no row at all, and for more tokens than are kept.
    """
    sizes: list[Int64] = []
    num_tokens = num_documents = num_bytes = 0
    for block, encoded in encode_all(source.blocks(), recipe, source.size):
        sizes.append(encoded.lengths)
        num_documents += len(encoded.lengths)
        num_tokens += len(encoded.coded)
        num_bytes += block.size
        if keep is not None:
            keep(encoded.coded)
        if keep is not None and num_tokens > MAX_TOKENS:
            raise bad_data(
                f"{source.at(block.first)}: more than the {MAX_TOKENS:,} tokens that are packed at most",
                "take a part of it; longer runs wrap around",
            )
        report(_progress(num_documents, num_bytes, source.size))
    if not num_documents:
        raise rows.nothing_in(source.title)
    return np.concatenate(sizes)


def _progress(num_documents: int, num_bytes: int, size: int) -> str:
    done = f"tokenized {num_documents:,} documents"
    return f"{done}, {units.percent(min(1.0, num_bytes / size))}" if size else done


def _digest(path: Path) -> dict[str, object]:
    """What identifies the content: a file's bytes, or a folder's files by name, size and time."""
    try:
        if path.is_dir():
            found = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in path.rglob("*"))
            return {"folder": hashlib.sha256(repr(found).encode()).hexdigest()}
        with path.open("rb") as handle:
            return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
    except OSError as error:
        raise TgsError(
            f"{path}: {error.strerror}",
            hint="set workload.corpus to a file of JSON, JSON lines, CSV, Parquet or text",
            exit_code=ExitCode.BAD_DATA,
        ) from error
