"""Files that strangers may have written: only regular ones, never a path outside, texts that do no harm."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import tomli  # the parser of tomllib, compiled: a third of its time

from tgsbench.errors import ExitCode, TgsError

_MAX_TOML = 256 << 10
"""A preset of a quarter of a megabyte is none; one line a key, TOML takes 1 s to read it."""
T = TypeVar("T")


def open_regular(path: Path, follow: bool = False) -> int:
    """Descriptor for reading a regular file; the caller closes it.

    Raises OSError for a FIFO, a device or a folder, and unless `follow` for a symbolic link: a link could
    leave the run folder, a FIFO would block for ever, /dev/zero never ends.
    """
    no_link = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | no_link | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def read_regular(path: Path, max_bytes: int, follow: bool = False) -> bytes:
    """Content of a regular file; OSError when it is none or holds more than `max_bytes`."""
    fd = open_regular(path, follow)
    with os.fdopen(fd, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes", str(path))
    return data


def reason_of(error: Exception) -> str:
    """What an exception of a reader says of the file, in one line of words that are not the interpreter's."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    return "a number of thousands of digits" if "integer string conversion" in text else one_line(text)


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file; a broken one is a TgsError that names the file and line."""
    try:
        return _copied(_parsed(read_regular(path, _MAX_TOML, follow=True)))
    except ValueError as error:
        raise TgsError(
            f"{path}: not valid TOML: {reason_of(error)}",
            hint="fix that line, or start again from `tgsbench presets show NAME`",
            exit_code=ExitCode.BAD_PRESET,
        ) from error
    except OSError as error:
        raise TgsError(f"{path}: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET) from error


@lru_cache(maxsize=32)
def _parsed(data: bytes) -> dict[str, Any]:
    """By content: forty presets extend one base and name each model several times; parsing takes 0.8 ms."""
    return toml_document(data)


def _copied(value: T) -> T:
    """A parsed document of the caller's own; copy.deepcopy, for any type, takes 4 times as long."""
    if isinstance(value, dict):
        return cast(T, {key: _copied(part) for key, part in value.items()})
    return cast(T, [_copied(part) for part in value]) if isinstance(value, list) else value


def inside(root: Path, relative: str) -> Path:
    """Path of `relative` under `root`; TgsError when it is absolute, climbs out or is linked outside."""
    path = root / relative
    base = root.resolve()
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(base):
        raise TgsError(
            f"{relative!r} leaves the folder {root}",
            hint="the folder was not written by tgsbench as it is: read it with care",
            exit_code=ExitCode.BAD_INPUT,
        )
    return path


_HIDDEN = (
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),  # DEL and the C1 controls, which are escape sequences of one character
    0x61C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A),
)  # fmt: skip
"""Controls, and the marks that turn a line's direction or break it; line breaks and tabs are shown."""
_BREAKS = {ord("\n"): "\\n", ord("\t"): "\\t"}
TEXTS = frozenset(
    {"traceback", "reason", "reasons", "msg", "hint", "forecast", "problem", "problems", "cause"}
    | {"warnings", "disturbances", "note", "notes", "description"}
)
"""Fields that hold sentences, and so line breaks; every other field is a name or a figure."""


@cache
def _spelled() -> dict[int, str]:
    """What stands for each hidden character and lone surrogate; made when a text first holds one."""
    return {code: f"\\u{code:04x}" for code in (*_HIDDEN, *range(0xD800, 0xE000))}


def utf8(path: str | os.PathLike[str]) -> str:
    """A path, or a word with one in it, as text that any document can hold: bytes that are no UTF-8 become �.

    A folder's name may be in another encoding than the locale's; Python keeps such bytes as lone surrogates.
    """
    return os.fsencode(path).decode("utf-8", "replace")


def printable(text: str) -> str:
    """The text with control characters and bidi marks spelled out, line breaks and tabs excepted.

    Names and messages in a run folder may hold escape sequences that a terminal would obey.
    """
    return text if text.isprintable() else text.translate(_spelled())


def one_line(text: str) -> str:
    """A name as `printable` has it, with line breaks and tabs spelled out too: it must not forge a row."""
    return text if text.isprintable() else text.translate(_spelled() | _BREAKS)


def harmless(document: T) -> T:
    """A document with every text in it `printable`, and every name in it in one line.

    Structs are changed in place, lists and tables copied.
    """
    found: T = _harmless(document, "")
    return found


def _harmless(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return printable(value) if name in TEXTS else one_line(value)
    if isinstance(value, dict):
        return {_harmless(key, ""): _harmless(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_harmless(item, name) for item in value)
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            msgspec.structs.force_setattr(value, field, _harmless(getattr(value, field), field))
    return value


# Patterns that few starts need are compiled by their first use: all of them would be a twentieth of a start.
_JSON_HIDDEN = (
    rb"\\(?:u([0-9a-fA-F]{4})|[^u])|\x7f|\xc2[\x80-\x9f]|\xd8\x9c"
    rb"|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]"
)
"""Escapes of JSON, and the hidden characters that may stand in it unescaped."""
_JSON_LETTERS = {b"\\b": 0x08, b"\\f": 0x0C, b"\\r": 0x0D}


def harmless_json(data: bytes) -> bytes:
    """JSON whose texts are `printable`: done on the bytes, so that decoding into types stays fast.

    Line breaks and tabs stay: `harmless` takes them out of names, in documents that are not `is_plain_json`.
    """
    return data if is_plain_json(data) else re.sub(_JSON_HIDDEN, _spell_json, data)


def is_plain_json(data: bytes) -> bool:
    """Holds the JSON no escape and no character beyond ASCII, and so no text that could do harm?"""
    return b"\\" not in data and b"\x7f" not in data and data.isascii()


def _spell_json(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if found[1] is not None:
        code = int(found[1], 16)
    elif text.startswith(b"\\"):
        code = _JSON_LETTERS.get(text, 0x20)
    else:
        code = ord(text.decode())
    return b"\\\\u%04x" % code if code in _HIDDEN_SET else text


_HIDDEN_SET = frozenset(_HIDDEN)

_LONG_KEY = r"""(?:\.[ \t]*+(?:[\w-]{1,512}+|"[^"\n]{0,512}+"|'[^'\n]{0,512}+')[ \t]*+){64}"""
"""A dotted key of 64 parts: reading one takes the square of its length."""
_PARTS = 64
_MAX_DEPTH = 32


def toml_document(data: bytes) -> dict[str, Any]:
    """A TOML document whose texts are harmless.

    Raises ValueError for bytes that are no TOML, and for nesting and keys that nobody writes by hand.
    """
    text = data.decode("utf-8")
    if text.count(".") >= _PARTS and re.search(_LONG_KEY, text):
        raise ValueError("a key of more than 64 parts")
    try:
        document = tomli.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_depth(document)
    return document if _is_plain_toml(text) else harmless(document)


def _is_plain_toml(text: str) -> bool:
    """Can no text in it hold a hidden character or a line break? To look at the file is 8 times faster."""
    has_escapes_or_lines = "\\" in text or '"""' in text or "'''" in text
    return not has_escapes_or_lines and text.replace("\n", "").isprintable()


def check_depth(value: Any) -> None:
    """Raise ValueError when a document is nested so deeply that walking it by calls would not end well."""
    level, depth = [value], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        level = [item for one in level for item in _inside(one) if isinstance(item, dict | list)]
        depth += 1


_LARGEST_INT = 2**63
_LARGEST_FLOAT = 1e40
"""Beyond what fp32 holds and any sum of it: squares and products of two still fit a float."""
_LARGEST = {"world_size": 131_072, "created_unix": 253_402_300_799, "tgs": 1e12}
"""Fields that a reader makes as many things of, or turns into a date; a speed that no device has."""
_LEAST = {"world_size": 1}
"""Where nothing or less of a thing is no run."""


def check_numbers(value: Any, name: str = "") -> None:
    """Raise ValueError naming the field when a document holds a number that no run can have counted."""
    if isinstance(value, float):
        if not math.isfinite(value) or abs(value) > _LARGEST.get(name, _LARGEST_FLOAT):
            raise ValueError(f"{name}: a number that is out of bounds")
    elif isinstance(value, int):
        if abs(value) > _LARGEST.get(name, _LARGEST_INT) or value < _LEAST.get(name, value):
            raise ValueError(f"{name}: a number that is out of bounds")
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            check_numbers(getattr(value, field), field)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            check_numbers(item, name)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
