"""Rows of a corpus file: Alpaca, ShareGPT, messages or text, as JSON, JSONL or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
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
    """Read a corpus file: one JSON array, one JSON object a line, or a CSV whose first line names columns.

    All rows have the format of the first: Alpaca (instruction, input, output), messages (role, content),
    ShareGPT (conversations of from, value) or text. Of a conversation the last answer is trained on, and
    what comes before is its prompt. Raises TgsError with file and line of the first problems.
    """
    text = _read_text(path)
    rows, problems = [], []
    kind = ""
    for line, value in _values(text, path):
        kind = kind or _kind(value)
        problem = _problem(value, kind)
        if problem:
            problems.append(f"{path}:{line}: {problem}")
        else:
            rows.append(_READERS[kind](value))
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


def _values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".csv":
        return _csv_values(text, path)
    return _array_values(text, path) if text.lstrip()[:1] == "[" else _line_values(text, path)


def _csv_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        hint = "the first line names columns: instruction, input and output, or text"
        raise _bad(f"{path}:{reader.line_num + 1}: not valid CSV: {error}", hint) from error


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


_KEY_OF = {"messages": "messages", "sharegpt": "conversations", "text": "text"}
_ANSWERS = ("assistant", "gpt", "model", "bot")


def _kind(value: Any) -> str:
    """The format of a row; Alpaca where no other one's key is there."""
    keys = value if isinstance(value, dict) and "instruction" not in value else {}
    return next((kind for kind, key in _KEY_OF.items() if key in keys), "alpaca")


def _problem(value: Any, kind: str) -> str:
    if not isinstance(value, dict):
        return f"expected an object {_SHAPE}, got {type(value).__name__}"
    if kind != "alpaca" and _KEY_OF[kind] not in value:
        return f'"{_KEY_OF[kind]}" is missing, which the first row has'
    if kind == "text":
        return "" if isinstance(value["text"], str) else '"text" is no text'
    return _turns_problem(value[_KEY_OF[kind]]) if kind != "alpaca" else _alpaca_problem(value)


def _turns_problem(turns: Any) -> str:
    if not isinstance(turns, list) or not turns:
        return "expected a list of turns, each with role and content (or from and value)"
    for number, turn in enumerate(turns, start=1):
        role, content = _turn(turn)
        if not isinstance(role, str) or content is None:
            return f"turn {number} of {len(turns)}: expected role and content (or from and value) as text"
    return "" if any(_turn(turn)[0] in _ANSWERS for turn in turns) else "no turn is an answer (assistant)"


def _turn(turn: Any) -> tuple[Any, str | None]:
    """Role and text; content in parts is joined, parts that are no text are left out."""
    if not isinstance(turn, dict):
        return None, None
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return turn.get("role", turn.get("from")), content if isinstance(content, str) else None


def _conversation(turns: list[Any]) -> CorpusRow:
    said = [_turn(turn) for turn in turns]
    last = max(index for index, (role, _) in enumerate(said) if role in _ANSWERS)
    prompt = "\n".join(text or "" for _, text in said[:last])
    return CorpusRow(_clean(prompt), "", _clean(said[last][1]))


def _alpaca_row(value: dict[str, Any]) -> CorpusRow:
    return CorpusRow(_clean(value["instruction"]), _clean(value.get("input")), _clean(value["output"]))


_READERS: dict[str, Callable[[dict[str, Any]], CorpusRow]] = {
    "alpaca": _alpaca_row,
    "messages": lambda value: _conversation(value["messages"]),
    "sharegpt": lambda value: _conversation(value["conversations"]),
    "text": lambda value: CorpusRow("", "", _clean(value["text"])),
}


def _alpaca_problem(value: dict[str, Any]) -> str:
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
