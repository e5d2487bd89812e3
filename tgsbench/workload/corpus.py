"""Which documents a preset trains on, and what the user should know about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema import events
from tgsbench.schema.preset import Preset
from tgsbench.workload import cache, hub, lengths, pydoc, rows, tokenizer
from tgsbench.workload.documents import Documents

Report = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Documents in file order, built when asked for; `key` identifies their content."""

    name: str
    key: dict[str, object]
    documents: Callable[[], Documents]
    note: str = ""
    warnings: list[events.Warn] = field(default_factory=list)


def choose(preset: Preset, num_packs: int, report: Report) -> Corpus:
    """The preset's corpus; without the hub, random tokens of Alpaca's lengths and a warning."""
    name = preset.workload.corpus
    if name == "lengths":
        return _lengths(preset, num_packs, report)
    if name == "pydoc":
        return _pydoc(preset, report)
    if name == "file":
        return _file(preset, report)
    try:
        return _alpaca(preset, report)
    except hub.HubUnavailable as unavailable:
        return _fallback(_lengths(preset, num_packs, report), str(unavailable), report)


def _fallback(corpus: Corpus, reason: str, report: Report) -> Corpus:
    msg = f"corpus alpaca cannot be had ({reason}); random tokens of its document lengths take its place"
    report(msg)
    hint = "give the run access to the hub, or an Alpaca file: workload.corpus=file workload.file=PATH"
    warn = events.Warn(code="corpus_fallback", msg=msg, hint=hint)
    return Corpus(corpus.name, corpus.key, corpus.documents, f"in place of alpaca: {reason}", [warn])


def _lengths(preset: Preset, num_packs: int, report: Report) -> Corpus:
    vocab_size, seed = preset.model.vocab_size, preset.workload.seed
    num_documents = lengths.documents_needed(preset, num_packs)

    def documents() -> Documents:
        report(f"drawing {num_documents:,} documents of Alpaca's lengths")
        return lengths.draw_documents(num_documents, vocab_size, seed)

    key = {"corpus": "lengths", "vocab": vocab_size, "seed": seed, "documents": num_documents}
    return Corpus("lengths", key, documents)


def _pydoc(preset: Preset, report: Report) -> Corpus:
    def read() -> list[rows.CorpusRow]:
        report("reading the docstrings of Python's standard library")
        return pydoc.read_rows()

    return _text("pydoc", {"sources": pydoc.fingerprint()}, read, preset, report)


def _file(preset: Preset, report: Report) -> Corpus:
    path = Path(preset.workload.file).expanduser()
    digest = _digest(path)

    def read() -> list[rows.CorpusRow]:
        report(f"reading {path}")
        return rows.read_file(path)

    return _text("file", {"sha256": digest}, read, preset, report)


def _alpaca(preset: Preset, report: Report) -> Corpus:
    key = {"corpus": "alpaca", "vocab": preset.model.vocab_size}
    # Asked before the cache's lock is taken: ranks that find no hub find it out side by side.
    if not cache.entry_path("corpora", key).exists():
        hub.require()

    def read() -> list[rows.CorpusRow]:
        report("reading Alpaca (en and zh) from the hub")
        return hub.read_rows()

    return _text("alpaca", {}, read, preset, report)


def _text(
    name: str,
    identity: dict[str, object],
    read: Callable[[], list[rows.CorpusRow]],
    preset: Preset,
    report: Report,
) -> Corpus:
    """A corpus of real text, tokenised once and kept."""
    vocab_size = preset.model.vocab_size
    key = {"corpus": name, "vocab": vocab_size, **identity}

    def build() -> dict[str, Any]:
        texts = read()
        report(f"training a {vocab_size:,}-token BPE on {len(texts):,} documents")
        bpe = tokenizer.train(texts, vocab_size)
        documents = tokenizer.encode(bpe, texts, report)
        return {"coded": documents.coded, "starts": documents.starts}

    kept = cache.load_or_build("corpora", key, ("coded", "starts"), build)
    documents = Documents(kept.arrays["coded"], kept.arrays["starts"])
    note = f"byte-level BPE of {vocab_size:,} tokens trained on the corpus"
    return Corpus(name, key, lambda: documents, note)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise TgsError(
            f"{path}: {error.strerror}",
            hint="set workload.file to an Alpaca-format JSON or JSONL file",
            exit_code=ExitCode.BAD_DATA,
        ) from error
