"""Byte-level BPE word by word: each word is merged once and then looked up.

The tokenizers library spends most of its time on cutting text into words and on merging words that it has
merged before. Python's `re` cuts several times faster, and a dictionary remembers the words. Ids are the
library's own: unknown words are given to its model, and what is not certain to be cut alike (a pattern that
is not understood, letters beyond the basic plane, text that is not normalised) is given to it whole.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any, Final

import numpy as np

_MAX_WORDS: Final = 200_000
"""About 40 MB; English text of 1 GB has most of its words among the first 50,000."""
_LONG_WORD: Final = 64
"""Longer words hardly come back."""
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ByteLevel cuts by where it is given no pattern (tokenizers/src/pre_tokenizers/byte_level.rs)."""
_SAME: Final = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)": "'(?i:[sdmt]|re|ve|ll)"}
"""The same with its first letter in front, which `re` looks for first: 1.7 times as fast."""
_BEYOND: Final = re.compile("[\U00010000-\U0010ffff]")
_NUM_PROBES: Final = 64


class WordEncoder:
    """Encodes text as `tokenizers` does, without special tokens of the template; see `word_encoder`."""

    def __init__(self, ascii_words: str, words: str, added: dict[str, int], model: Any, is_nfc: bool) -> None:
        self._ascii_words = re.compile(ascii_words, re.ASCII).findall
        self._words = re.compile(words).findall
        self._ids = _Words(model)
        self._added = {text: _as_bytes([number]) for text, number in added.items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split if added else None
        self._is_nfc = is_nfc

    def encode(self, text: str) -> bytes | None:
        """Ids as int32 in the machine's order; None where the library itself has to be asked."""
        if not text.isascii() and (
            _BEYOND.search(text) or (self._is_nfc and not unicodedata.is_normalized("NFC", text))
        ):
            return None
        if self._split is None:
            return self._plain(text)
        parts = self._split(text)
        if len(parts) == 1:
            return self._plain(text)
        found = [self._added[part] if part in self._added else self._plain(part) for part in parts if part]
        return None if None in found else b"".join(part for part in found if part is not None)

    def _plain(self, text: str) -> bytes | None:
        words = self._ascii_words(text) if text.isascii() else self._words(text)
        if sum(map(len, words)) != len(text):
            return None  # the pattern leaves gaps, which the library makes words of
        return b"".join(map(self._ids.__getitem__, words))


class _Words(dict[str, bytes]):
    """Ids of words, merged by the library's model at first sight."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> bytes:
        spelled = word.encode().decode("latin-1").translate(_SPELLED)
        ids = _as_bytes([token.id for token in self._model.tokenize(spelled)])
        if len(word) <= _LONG_WORD:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def word_encoder(tokenizer: Any, document: dict[str, Any], specials_are_text: bool) -> WordEncoder | None:
    """The encoder for a tokenizer and its tokenizer.json; None where it may not cut as the library does."""
    pattern = _pattern(document)
    added = [
        token
        for token in document.get("added_tokens") or []
        if not (specials_are_text and token.get("special"))
    ]
    odd = any(token.get(key) for token in added for key in ("single_word", "lstrip", "rstrip"))
    if pattern is None or odd or not _is_plain_bpe(document):
        return None
    for found, better in _SAME.items():
        pattern = pattern.replace(found, better)
    ascii_words, words = translate(pattern, 0x80), translate(pattern, 0x10000)
    if ascii_words is None or words is None:
        return None
    is_nfc = document.get("normalizer") is not None
    numbers = {token["content"]: token["id"] for token in added}
    try:
        return WordEncoder(ascii_words, words, numbers, tokenizer.model, is_nfc)
    except re.error:
        return None


def agrees(encoder: WordEncoder, tokenizer: Any, texts: list[str]) -> bool:
    """Does it give the library's ids for the first of these texts?"""
    probes = [text[:2000] for text in texts[:_NUM_PROBES]]
    asked = tokenizer.encode_batch_fast(probes, add_special_tokens=False)
    found = map(encoder.encode, probes)
    return all(own is None or own == _as_bytes(real.ids) for own, real in zip(found, asked, strict=True))


def _is_plain_bpe(document: dict[str, Any]) -> bool:
    model = document.get("model") or {}
    odd = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "unk_token")
    normalizer = document.get("normalizer")
    return (
        model.get("type") == "BPE"
        and not any(model.get(key) for key in odd)
        and (normalizer is None or normalizer == {"type": "NFC"})
    )


def _pattern(document: dict[str, Any]) -> str | None:
    """What text is cut by before its bytes are merged."""
    cut = document.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", []) if cut.get("type") == "Sequence" else [cut]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return _GPT2 if steps[0].get("use_regex", True) else None
    split = steps[0]
    is_plain = split.get("type") == "Split" and split.get("behavior") == "Isolated"
    is_plain = is_plain and not split.get("invert")
    if len(steps) != 2 or not is_plain or steps[1].get("use_regex", True):
        return None
    found = (split.get("pattern") or {}).get("Regex")
    return found if isinstance(found, str) else None


_PART: Final = re.compile(
    r"""\\p\{\w+\} | \\[sdwSDW] | \\[rnt] | \\[^\w] | \(\?(?:i:|:|!|=) | \((?!\?) | \[\^? | \]
    | [^\\^$.(]""",
    re.VERBOSE | re.DOTALL,
)


def translate(pattern: str, below: int) -> str | None:
    """A pattern of the library (Oniguruma) for Python's `re`, its classes spelled out up to a code point.

    None where it holds something that the two may read otherwise.
    """
    out: list[str] = []
    in_class = False
    at = 0
    while at < len(pattern):
        found = _PART.match(pattern, at)
        part = _translated(found[0], in_class, below) if found else None
        if found is None or part is None:
            return None
        out.append(part)
        in_class = (in_class or found[0].startswith("[")) and found[0] != "]"
        at = found.end()
    return "".join(out)


def _translated(part: str, in_class: bool, below: int) -> str | None:
    if part.startswith("[") and in_class:
        return None  # a class in a class, or one of POSIX
    if part == "&" and in_class:
        return None
    if part.startswith("\\p") or part in ("\\s", "\\d", "\\w"):
        inside = _spelled_class(part, below)
        return inside if in_class else f"[{inside}]"
    if part in ("\\S", "\\D", "\\W"):
        return None if in_class else f"[^{_spelled_class(part.lower(), below)}]"
    return part


def _spelled_class(name: str, below: int) -> str:
    return "".join(
        f"\\u{first:04x}-\\u{min(last, below - 1):04x}" for first, last in _ranges(name) if first < below
    )


@cache
def _ranges(name: str) -> list[tuple[int, int]]:
    """Code points of the basic plane that the library counts into a class, first and last of each run."""
    from tokenizers import Regex, pre_tokenizers

    without = pre_tokenizers.Split(Regex(f"(?:{name})+"), "removed").pre_tokenize_str(_PLANE)
    edges = [0, *(edge for _, span in without for edge in span), len(_PLANE)]
    spans = zip(edges[::2], edges[1::2], strict=True)
    return [(ord(_PLANE[first]), ord(_PLANE[end - 1])) for first, end in spans if end > first]


_PLANE: Final = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)


def _as_bytes(ids: list[int]) -> bytes:
    return np.array(ids, np.int32).tobytes()


def _spelling() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte: the byte's own where that can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {
        byte: chr(0x100 + index) for index, byte in enumerate(hidden)
    }


_SPELLED: Final = _spelling()
