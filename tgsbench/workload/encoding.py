"""From rows to tokens: template, tokenizer, and which tokens are targets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from tgsbench.errors import TgsError
from tgsbench.workload.blocks import DataBlock, bad_data
from tgsbench.workload.chat_template import ChatTemplate
from tgsbench.workload.documents import LABEL_BIT, Int32, Int64
from tgsbench.workload.rows import Conversation, CorpusRow, Row, Text, Turn, plain_row, read_block
from tgsbench.workload.tokenizer import BOS, EOS, prompt_of, tokenizers_package
from tgsbench.workload.word_bpe import WordEncoder, agrees, word_encoder

Piece = tuple[str | bytes, bool]
"""Text, or ids that are known, and whether they are targets."""


Labels = Literal["all", "answers"]


class EncodingRecipe(NamedTuple):
    """All that a worker needs to make tokens of a block."""

    tokenizer: str
    """Path of the tokenizer.json."""
    source: str
    """What stands before a row's number in a message."""
    kind: str
    labels: Labels
    is_trained_here: bool
    """A BPE trained on the corpus, in which the text of a special token stays text."""
    name: str = ""
    chat_template: str = ""
    specials: tuple[tuple[str, str], ...] = ()
    """bos_token, eos_token and their like, as text."""


class Encoded(NamedTuple):
    """Documents of a block: `coded` int32 [N] with LABEL_BIT, `lengths` int64 [n]."""

    coded: Int32
    lengths: Int64


class BlockEncoder:
    """Makes documents of blocks by one recipe; built once a process, for a tokenizer takes long to load."""

    def __init__(self, recipe: EncodingRecipe) -> None:
        path = Path(recipe.tokenizer)
        try:
            self._library = tokenizers_package().Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more special
            raise bad_data(f"{path}: not a tokenizer.json: {error}", "save the tokenizer anew") from error
        self._library.encode_special_tokens = recipe.is_trained_here
        self._library.no_truncation()
        self._library.no_padding()
        self._recipe = recipe
        document = msgspec.json.decode(path.read_bytes())
        self._words: WordEncoder | None = word_encoder(self._library, document, recipe.is_trained_here)
        self._is_probed = False
        self._pieces = _template(recipe, self._library)

    def encode(self, block: DataBlock) -> Encoded:
        """Documents of a block. Raises TgsError that names the row where something is wrong."""
        rows = read_block(block, self._recipe.source, self._recipe.kind)
        documents = [self._document(number, row) for number, row in rows]
        pieces = list(itertools.chain.from_iterable(documents))
        tokens = self._tokens([text for text, _ in pieces])
        sizes = np.fromiter((len(part) // 4 for part in tokens), np.int64, len(tokens))
        targets = np.fromiter((target for _, target in pieces), np.bool_, len(pieces))
        coded = np.frombuffer(b"".join(tokens), np.int32) | (np.repeat(targets, sizes) * LABEL_BIT)
        counts = np.fromiter(map(len, documents), np.int64, len(documents))
        edges = np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(counts)])]
        return Encoded(coded, np.diff(edges))

    def _document(self, number: int, row: Row) -> list[Piece]:
        try:
            return self._pieces(row)
        except TgsError as error:
            place = f"{self._recipe.source}{number}"
            raise TgsError(f"{place}: {error.msg}", hint=error.hint, exit_code=error.exit_code) from error

    def _tokens(self, texts: Sequence[str | bytes]) -> list[bytes]:
        """Ids of texts; what is ids already stays as it is."""
        if self._words is not None and not self._is_probed:
            probes = [text for text in texts if isinstance(text, str)]
            self._words = self._words if agrees(self._words, self._library, probes) else None
            self._is_probed = True
        encode = self._words.encode if self._words is not None else _ask_library
        found = [text if isinstance(text, bytes) else encode(text) for text in texts]
        missing = [index for index, ids in enumerate(found) if ids is None]
        asked = self._library.encode_batch_fast([texts[i] for i in missing], add_special_tokens=False)
        for index, encoding in zip(missing, asked, strict=True):
            found[index] = ids_as_bytes(encoding.ids)
        return [ids for ids in found if ids is not None]


def _ask_library(_text: str) -> None:
    return None


def ids_as_bytes(ids: Sequence[int]) -> bytes:
    """Ids as int32 in the machine's order."""
    return np.array(ids, np.int32).tobytes()


def _template(recipe: EncodingRecipe, library: Any) -> Callable[[Row], list[Piece]]:
    """What a row becomes before it is tokenized."""
    plain = _plain_template(recipe, library)
    if recipe.is_trained_here:
        return plain
    if not recipe.chat_template:
        return plain if recipe.kind in ("alpaca", "text") else _refuse_conversations(recipe)
    chat = ChatTemplate(recipe.chat_template, dict(recipe.specials), recipe.name)

    def pieces(row: Row) -> list[Piece]:
        if isinstance(row, Text):
            return plain(row)
        turns = row.turns if isinstance(row, Conversation) else _as_turns(row)
        return list(chat.pieces(turns)) if recipe.labels == "answers" else [(chat.text(turns), True)]

    return pieces


def needs_chat_template(kind: str) -> bool:
    """Are rows of this format conversations, which only a template makes text of?"""
    return kind in ("messages", "sharegpt")


def no_chat_template(name: str, kind: str) -> TgsError:
    """Conversations, and a tokenizer that does not say how one is written."""
    return bad_data(
        f"tokenizer {name} has no chat template, and rows of format {kind} need one",
        "name one with a chat_template in its tokenizer_config.json, or beside it as chat_template.jinja",
    )


def _refuse_conversations(recipe: EncodingRecipe) -> Callable[[Row], list[Piece]]:
    raise no_chat_template(recipe.name, recipe.kind)


def _as_turns(row: CorpusRow) -> tuple[Turn, ...]:
    prompt = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    return Turn("user", prompt), Turn("assistant", row.output)


_NEWLINE: Final = "\n"


def _plain_template(recipe: EncodingRecipe, library: Any) -> Callable[[Row], list[Piece]]:
    """The reference's llama2_chat template for instructions, and text between begin and end of a document."""
    begin, end = _ends(recipe, library)
    every = recipe.labels == "all"
    # The reference's template begins with the token whether or not the tokenizer adds one to plain text.
    bos = library.token_to_id(dict(recipe.specials).get("bos_token", ""))
    first = begin or ids_as_bytes([] if bos is None else [bos])

    def pieces(row: Row) -> list[Piece]:
        if isinstance(row, Text):
            return [(begin, False), (row.text, True), (end, True)]
        told = plain_row(row)
        prompt, answer = (prompt_of(told), every), (told.output, True)
        return [(first, False), prompt, answer, (end, True), (_NEWLINE, every)]

    return pieces


def _ends(recipe: EncodingRecipe, library: Any) -> tuple[bytes, bytes]:
    """Ids before and after a document: what the tokenizer itself adds, and its end of text."""
    if recipe.is_trained_here:
        return ids_as_bytes([BOS]), ids_as_bytes([EOS])
    inner = library.encode("a", add_special_tokens=False).ids
    outer = library.encode("a").ids
    at = next((i for i in range(len(outer)) if outer[i : i + len(inner)] == inner), 0)
    before, after = outer[:at], outer[at + len(inner) :]
    eos = library.token_to_id(dict(recipe.specials).get("eos_token", ""))
    return ids_as_bytes(before), ids_as_bytes(after or ([] if eos is None else [eos]))
