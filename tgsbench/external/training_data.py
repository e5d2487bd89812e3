"""What another system trains on: our documents as text with a tokenizer, or our packs as arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tgsbench.errors import ExitCode, TgsError
from tgsbench.external.adapter import model_config, num_steps
from tgsbench.external.process import ExternalProcess, is_on_virtual_gpu
from tgsbench.presets.data_names import corpus_kind
from tgsbench.schema import events
from tgsbench.schema.preset import Preset
from tgsbench.system.user_cache import user_cache
from tgsbench.workload import corpus, hub, prepare, pydoc, rows, tokenizer
from tgsbench.workload.packs import IGNORE_INDEX, PackedDataset
from tgsbench.workload.rows import CorpusRow

Say = Callable[[str], None]


def write_documents(preset: Preset, folder: Path, say: Say) -> int:
    """corpus.json, and model/ with configuration and tokenizer; returns the number of documents."""
    documents = _documents(preset)
    bpe = tokenizer.train(documents, preset.model.vocab_size)
    say(f"writing {len(documents):,} documents and a tokenizer of {preset.model.vocab_size:,} entries")
    write_shape(preset, folder / "model", bpe)
    repeated = documents * preset.workload.concat
    (folder / "corpus.json").write_text(json.dumps([row._asdict() for row in repeated]), "utf-8")
    return len(repeated)


def write_shape(preset: Preset, path: Path, words: Any) -> None:
    """A model's folder without weights: configuration and tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    words.save(str(path / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (path / "config.json").write_text(json.dumps(model_config(preset)), "utf-8")


def num_packs_of(preset: Preset) -> int:
    """Packs of a whole run, warm-up included."""
    return preset.packs_per_step * num_steps(preset)


def write_packs(preset: Preset, folder: Path, say: Say) -> tuple[events.Data, list[events.Warn]]:
    """Our own packs as arrays, labels not shifted (the other system shifts them); see peer/xtuner_prepare."""
    num_packs = num_packs_of(preset)
    data = prepare(preset, num_packs, say)
    kept = min(num_packs, data.num_packs)
    shape = (kept, preset.workload.seq_len)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.int32, shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.int32, shape)
    lengths, starts = np.zeros(kept, np.int64), []
    for index in range(kept):
        lengths[index] = _write_pack(data, index, tokens[index], labels[index])
        if preset.workload.document_mask:
            starts.append(data.pack(index).doc_starts.tolist())
    np.save(folder / "lengths.npy", lengths)
    (folder / "starts.json").write_text(json.dumps(starts), "utf-8")
    # A pack shorter than S is handed over as it is, so nothing is padded but to a multiple of sp.
    padded = int((-lengths % preset.parallel.sp).sum())
    return msgspec.structs.replace(data.data, tokens_padded=padded), data.warnings


def remove_packs(folder: Path) -> None:
    """Remove what `write_packs` wrote."""
    for name in ("tokens.npy", "labels.npy", "lengths.npy", "starts.json"):
        (folder / name).unlink(missing_ok=True)


def write_packs_and_weights(
    preset: Preset, folder: Path, peer: ExternalProcess, script: str, say: Say, saying: str
) -> tuple[events.Data, list[events.Warn]]:
    """Our own packs, and random weights of the preset's shape.

    The weights are written by `script` of peer/, which reads model.json; `saying` is told before it starts.
    On a virtual GPU they are a hole in a file: 70 B parameters take no room, and nobody computes with them.
    Raises TgsError with what the script raised.
    """
    written = write_packs(preset, folder, say)
    settings = {**model_config(preset), "_path": str(weights_dir(preset))}
    (folder / "model.json").write_text(json.dumps(settings), "utf-8")
    say(saying)
    if is_on_virtual_gpu():
        peer.script("empty_weights.py", str(folder))
    peer.script(script, str(folder))
    return written


def weights_dir(preset: Preset) -> Path:
    """Folder of random weights, shared by presets of one shape; a virtual GPU's are apart."""
    settings = json.dumps(model_config(preset), sort_keys=True)
    kind = "empty-weights" if is_on_virtual_gpu() else "random-weights"
    return user_cache() / kind / hashlib.sha256(settings.encode()).hexdigest()[:16]


def _write_pack(data: PackedDataset, index: int, tokens: np.ndarray, labels: np.ndarray) -> int:
    pack = data.pack(index)
    tokens[:] = pack.tokens
    labels[0] = IGNORE_INDEX
    labels[1:] = pack.labels[:-1]
    return pack.num_tokens


def _documents(preset: Preset) -> list[CorpusRow]:
    kind = corpus_kind(preset.workload.corpus)
    if kind == "pydoc":
        return pydoc.read_rows()
    if kind in ("file", "hub"):
        source = corpus.source_of(preset.workload)
        return [rows.plain_row(row) for row in rows.read_rows(source, preset.workload.format)]
    try:
        hub.require()
        return hub.read_rows()
    except hub.HubUnavailable as error:
        raise TgsError(
            f"corpus alpaca cannot be had ({error}), and {preset.engine.name} tokenizes text itself",
            hint="--set workload.corpus=pydoc, or --set workload.corpus=PATH",
            exit_code=ExitCode.BAD_DATA,
        ) from error
