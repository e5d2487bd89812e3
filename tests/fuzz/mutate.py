"""Damages documents by their structure, from a seeded generator: 10^5 inputs take minutes, not hours."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import tomli_w

Mutator = Callable[[Random, bytes], bytes]

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 131_072, 10**6, 10**9, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63), 2**63),
    *(2**64, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e-9, 1e9, 1e300, 1.7e308, -1e300),
    *map(float, ("inf", "-inf", "nan")),
)
TEXTS = (
    *("", " ", "\n", "nan", "inf", "1e999", "1M", "-1", "0x10", "None", "true", "ok", "=", ",", '"', "'"),
    *("../../etc/passwd", "/dev/zero", "$(touch evil)", "\x1b[2J", "\x9b\u202e", "\ud800", "\x00", "."),
    *("a" * 300, "9" * 5000, "🙂", "²", "٣"),
)
JUNK = (*(bytes([code]) for code in b'\x00\n"{}[],:\\\xc3\xff'), b"\xfe\xff", b"\xed\xa0\x80")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def hostile(rng: Random) -> Any:
    """A value that nobody means."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice([None, True, False, [], {}, [[]], {"": None}])
    if kind == 6:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
    return _nested(rng.choice([2, 40, 300]), rng.random() < 0.5)


def _nested(depth: int, as_list: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found, open_ = [], [value]
    while open_:
        at = open_.pop()
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        found += [(at, key) for key in keys]
        open_ += [at[key] for key in keys if isinstance(at[key], dict | list)]
    return found


def changed(rng: Random, document: Any) -> Any:
    """The document with one to four of its values replaced, dropped, doubled, swapped or made longer."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = _places(document) if isinstance(document, dict | list) else []
        if not places:
            return hostile(rng)
        at, key = rng.choice(places)
        other, other_key = rng.choice(places)
        how = rng.randrange(10)
        if how < 5:
            at[key] = hostile(rng)
        elif how == 5:
            del at[key]
        elif how == 6:
            at[key] = _copied(other[other_key])
        elif how == 7 and isinstance(at[key], list) and len(at[key]) < 1000:
            at[key] *= rng.choice([0, 2, 3])
        elif how == 8 and isinstance(at, dict):
            at[rng.choice(TEXTS)] = hostile(rng)
        elif isinstance(at[key], int | float) and not isinstance(at[key], bool):
            at[key] = at[key] * rng.choice([-1, 0, 2, 1000, 10**12])
    return document


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:  # nested in what was nested before
        return None


def dumped(document: Any) -> bytes:
    """JSON as a careless writer makes it: NaN, Infinity and lone surrogates included."""
    try:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"{}"


def bytes_of(rng: Random, data: bytes) -> bytes:
    """The same bytes with a few of them cut, doubled, overwritten or moved."""
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, 64, 1000])
        how = rng.randrange(6)
        if how == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + data[at + size :]
        elif how == 2:
            data = data[: at + size] + data[at : at + size] + data[at + size :]
        elif how == 3:
            data = data[:at] + rng.choice(JUNK) * rng.choice([1, 1, 3, 2000]) + data[at:]
        elif how == 4:
            data = data[:at] + rng.randbytes(size) + data[at + size :]
        else:
            data = (
                data[:at] + rng.choice([b"\x00", b"\xff", b"\x7f"]) * min(size, 8) + data[at + min(size, 8) :]
            )
    return data


def _perhaps(rng: Random, data: bytes) -> bytes:
    """One in ten is damaged as bytes, too."""
    return bytes_of(rng, data) if rng.random() < 0.1 else data


def json_document(rng: Random, data: bytes) -> bytes:
    """One JSON document, changed at any depth."""
    return _perhaps(rng, dumped(changed(rng, json.loads(data))))


def json_lines(rng: Random, data: bytes) -> bytes:
    """JSON lines: some changed, dropped, doubled or out of order."""
    lines = data.splitlines()
    for _ in range(rng.randint(1, 4)):
        at, how = rng.randrange(len(lines)), rng.randrange(6)
        if how < 3:
            lines[at] = json_document(rng, lines[at]) if _is_json(lines[at]) else bytes_of(rng, lines[at])
        elif how == 3 and len(lines) > 1:
            del lines[at]
        elif how == 4:
            lines.insert(rng.randrange(len(lines)), lines[at])
        else:
            rng.shuffle(lines)
    return _perhaps(rng, rng.choice([b"\n", b"\n", b"\r\n", b"\n\n"]).join(lines) + rng.choice([b"\n", b""]))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def toml(rng: Random, data: bytes) -> bytes:
    """A TOML document, changed at any depth."""
    import tomllib

    document = changed(rng, tomllib.loads(data.decode()))
    try:
        text = tomli_w.dumps(document).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError, RecursionError):
        return bytes_of(rng, data)  # what TOML has no word for
    if rng.random() < 0.05:
        n = rng.randrange(1, 3000)
        text += rng.choice(
            [".".join("a" * n) + " = 1", "x = " + "[" * n + "]" * n, "x = " + "9" * n]
        ).encode()
    return _perhaps(rng, text)


def text_lines(rng: Random, data: bytes) -> bytes:
    """A log or a table: numbers replaced, lines and cells dropped, doubled or moved."""
    for _ in range(rng.randint(1, 5)):
        how = rng.randrange(5)
        if how < 3 and (found := list(_NUMBER.finditer(data))):
            at = rng.choice(found)
            value = rng.choice(
                [*NUMBERS, "9" * 400, "9" * 5000, "-", "", "1,000", "1.2.3", "nan", "inf", "1e400", "0x1"]
            )
            data = data[: at.start()] + str(value).encode() + data[at.end() :]
        elif how == 3:
            lines = data.split(b"\n")
            at_line = rng.randrange(len(lines))
            lines[at_line : at_line + 1] = [lines[at_line]] * rng.choice([0, 2, 5])
            data = b"\n".join(lines)
        else:
            data = bytes_of(rng, data)
    return data
