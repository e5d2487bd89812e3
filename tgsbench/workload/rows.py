"""Alpaca-format rows, and the JSON or JSONL files that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tgsbench.errors import ExitCode, TgsError

_SHAPE = '{"instruction": "…", "input": "…", "output": "…"}'
_DECODER = json.JSONDecoder()
_MAX_PROBLEMS = 5
_SPACE = " \t\r\n"


class CorpusRow(NamedTuple):
    """One instruction with its optional input and its answer."""

    instruction: str
    input: str
    output: str


def has_answer(row: CorpusRow) -> bool:
    """Whether the row trains anything; Alpaca marks unanswered rows with <nooutput>."""
    return row.output.strip() not in ("", "<nooutput>")


def read_file(path: Path) -> list[CorpusRow]:
    """Read an Alpaca-format file: one JSON array, or one JSON object a line.

    Raises TgsError with file and line of the first problems.
    """
    text = _read_text(path)
    values = _array_values(text, path) if text.lstrip()[:1] == "[" else _line_values(text, path)
    rows, problems = [], []
    for line, value in values:
        problem = _problem(value)
        if problem:
            problems.append(f"{path}:{line}: {problem}")
        else:
            rows.append(
                CorpusRow(_clean(value["instruction"]), _clean(value.get("input")), _clean(value["output"]))
            )
    if problems:
        raise _file_error(problems)
    answered = [row for row in rows if has_answer(row)]
    if not answered:
        raise _bad(f"{path}: holds no row with an output", f"each row is {_SHAPE}")
    return answered


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _bad(f"{path}:{line}: not UTF-8 text", "convert the file to UTF-8") from error
    except OSError as error:
        hint = "set workload.file to an Alpaca-format JSON or JSONL file"
        raise _bad(f"{path}: {error.strerror}", hint) from error


def _line_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    # Only \n ends a line here: str.splitlines also cuts at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _syntax_error(path, number, error) from error


def _array_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    at, line = text.index("[") + 1, text.count("\n", 0, text.index("[")) + 1
    while True:
        begin = _skip(text, at, _SPACE + ",")
        line += text.count("\n", at, begin)
        if text[begin : begin + 1] == "]":
            return
        try:
            value, at = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise _syntax_error(path, getattr(error, "lineno", line), error) from error
        yield line, value
        line += text.count("\n", begin, at)


def _skip(text: str, at: int, ignored: str) -> int:
    while at < len(text) and text[at] in ignored:
        at += 1
    return at


def _problem(value: Any) -> str:
    if not isinstance(value, dict):
        return f"expected an object {_SHAPE}, got {type(value).__name__}"
    for key in ("instruction", "output"):
        if not isinstance(value.get(key), str):
            return f'"{key}" is missing or no text'
    if not isinstance(value.get("input", ""), str | None):
        return '"input" is no text'
    return ""


def _clean(text: str | None) -> str:
    """Replace lone surrogates, which JSON can write but UTF-8 cannot."""
    return (text or "").encode("utf-8", "replace").decode("utf-8")


def _file_error(problems: list[str]) -> TgsError:
    shown = problems[:_MAX_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"… and {len(problems) - len(shown)} more")
    return _bad("\n  ".join(shown), f"each row is {_SHAPE}; input may be left out")


def _syntax_error(path: Path, line: int, error: ValueError | RecursionError) -> TgsError:
    """Besides wrong syntax, json refuses numbers of over 4,300 digits and nests of over 1,000 brackets."""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return _bad(
        f"{path}:{line}: not valid JSON: {reason}", f"write one array of rows, or one row a line: {_SHAPE}"
    )


def _bad(msg: str, hint: str) -> TgsError:
    return TgsError(msg, hint=hint, exit_code=ExitCode.BAD_DATA)
