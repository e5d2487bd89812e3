"""A byte-level BPE trained on the corpus itself, and the llama2_chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.workload.documents import (
    Documents,
    Int32,
    Int64,
    flatten,
    from_parts,
    starts_of,
)
from tgsbench.workload.rows import CorpusRow

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
BOS, EOS = 1, 2
MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
# Merges learned from 4 M characters are near those of the whole of Alpaca (20 M), in a fifth of the time.
_TRAIN_CHARACTERS = 4_000_000
_BLOCK_ROWS = 8_192


def train(rows: list[CorpusRow], vocab_size: int) -> Any:
    """Train a byte-level BPE of at most `vocab_size` tokens on an even sample of the rows.

    Raises TgsError when `vocab_size` is below the 256 bytes and the special tokens.
    """
    tokenizers = tokenizers_package()
    if vocab_size < MIN_VOCAB:
        raise TgsError(
            f"model.vocab_size={vocab_size} cannot hold a byte-level vocabulary ({MIN_VOCAB} tokens)",
            hint="raise model.vocab_size, or take random tokens: --set workload.corpus=lengths",
            exit_code=ExitCode.BAD_DATA,
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(rows), trainer)
    # The text "</s>" inside a document stays text: only the template sets special tokens.
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_alone() -> Any:
    """A tokenizer of the special tokens and no word, for a system that asks for one and is handed tokens."""
    tokenizers = tokenizers_package()
    words = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=SPECIAL_TOKENS[0]))


def encode(tokenizer: Any, rows: list[CorpusRow], report: Callable[[str], None]) -> Documents:
    """Encode rows in the llama2_chat template: <s>[INST] … [/INST] output </s> newline.

    Output and </s> are training targets; the rest is ignored.
    """
    newline = np.array(tokenizer.encode("\n").ids, np.int32)
    blocks: list[Documents] = []
    remaining = iter(rows)
    while block := list(islice(remaining, _BLOCK_ROWS)):
        blocks.append(_encode_block(tokenizer, block, newline))
        if len(rows) > _BLOCK_ROWS:
            report(f"tokenized {sum(b.num_documents for b in blocks):,} of {len(rows):,} documents")
    coded = np.concatenate([block.coded for block in blocks])
    return Documents(coded, starts_of(np.concatenate([block.lengths for block in blocks])))


def prompt_of(row: CorpusRow) -> str:
    """The prompt of a row as the reference's Alpaca map and chat template write it."""
    return f"[INST] {row.instruction}\n{row.input} [/INST]"


def _encode_block(tokenizer: Any, rows: list[CorpusRow], newline: Int32) -> Documents:
    prompt, prompt_lengths = _encode_texts(tokenizer, [prompt_of(row) for row in rows])
    output, output_lengths = _encode_texts(tokenizer, [row.output for row in rows])
    n = len(rows)
    one = np.ones(n, np.int64)
    parts = [
        (np.full(n, BOS, np.int32), one),
        (prompt, prompt_lengths),
        (output, output_lengths),
        (np.full(n, EOS, np.int32), one),
        (np.tile(newline, n), one * len(newline)),
    ]
    tokens = interleave(parts)
    lengths = prompt_lengths + output_lengths + 2 + len(newline)
    return from_parts(tokens, lengths, prompt_lengths + 1, output_lengths + 1)


def interleave(parts: list[tuple[Int32, Int64]]) -> Int32:
    """Join the n-th piece of every part, for all n; a part is (tokens, length of each piece)."""
    lengths = np.stack([sizes for _, sizes in parts], axis=1)
    starts = starts_of(lengths.ravel())
    at = starts[:-1].reshape(lengths.shape)
    joined = np.empty(int(starts[-1]), np.int32)
    for column, (tokens, sizes) in enumerate(parts):
        shift = np.repeat(at[:, column] - starts_of(sizes)[:-1], sizes)
        joined[shift + np.arange(len(tokens))] = tokens
    return joined


def _encode_texts(tokenizer: Any, texts: list[str]) -> tuple[Int32, Int64]:
    return flatten([encoding.ids for encoding in tokenizer.encode_batch_fast(texts)])


def _sample(rows: list[CorpusRow]) -> Iterator[str]:
    characters = sum(len(prompt_of(row)) + len(row.output) for row in rows)
    stride = max(1, -(-characters // _TRAIN_CHARACTERS))
    for row in rows[::stride]:
        yield prompt_of(row)
        yield row.output


def tokenizers_package() -> Any:
    """The package tokenizers. Raises TgsError (MISSING_DEPENDENCY) when it is not installed."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise TgsError(
            "text corpora need the package tokenizers, which is not installed",
            hint=f"{pip_install('train')}, or take random tokens: --set workload.corpus=lengths",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    return tokenizers
