"""What a row of data says: an instruction with its answer, a conversation, or text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tgsbench.errors import TgsError
from tgsbench.schema.preset import DataFormat
from tgsbench.workload.blocks import ROW_SHAPE, DataBlock, Source, bad_data, open_source, rows_of

_MAX_PROBLEMS = 5
_KEY_OF: Final = {"messages": "messages", "sharegpt": "conversations", "text": "text"}
_ROLES: Final = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
"""ShareGPT's names of who speaks, and those that other collections use."""
_EXPECTED = "expected instruction and output, messages, conversations or text"


class CorpusRow(NamedTuple):
    """One instruction with its optional input and its answer."""

    instruction: str
    input: str
    output: str


class Turn(NamedTuple):
    """What one side of a conversation says."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Turns, at least one of them an answer."""

    turns: tuple[Turn, ...]


class Text(NamedTuple):
    """A document as it is."""

    text: str


Row = CorpusRow | Conversation | Text


def has_answer(row: CorpusRow) -> bool:
    """Whether the row trains anything; Alpaca marks unanswered rows with <nooutput>."""
    return row.output.strip() not in ("", "<nooutput>")


def kind_of(value: Any) -> str:
    """The format of a row by its keys; empty where it has none of a known one."""
    keys = value if isinstance(value, dict) else {}
    if "instruction" in keys or "output" in keys:
        return "alpaca"
    return next((kind for kind, key in _KEY_OF.items() if key in keys), "")


def first_kind(source: Source, asked: DataFormat) -> str:
    """The format of all rows: as asked, or as the first row's keys say; empty when they say nothing."""
    if source.kind or asked != "auto":
        return source.kind or asked
    for block in source.blocks():
        for _, value in rows_of(block, source.name):
            return kind_of(value)
    return ""


def read_block(block: DataBlock, name: str, kind: str) -> list[tuple[int, Row]]:
    """The rows of a block that train something, all of format `kind`, each with its number.

    Raises TgsError that names the first rows which are of another format, each with its place.
    """
    rows: list[tuple[int, Row]] = []
    problems: list[str] = []
    for number, value in rows_of(block, name):
        if problem := _problem(value, kind):
            problems.append(f"{name}{number}: {problem}")
        elif (row := _row(value, kind)) is not None:
            rows.append((number, row))
    if problems:
        raise _row_error(problems)
    return rows


def read_rows(source: Source, asked: DataFormat = "auto") -> Iterator[Row]:
    """Rows one after the other, a block in memory at a time."""
    kind = first_kind(source, asked)
    for block in source.blocks():
        yield from (row for _, row in read_block(block, source.name, kind))


def read_file(path: Path, asked: DataFormat = "auto") -> list[CorpusRow]:
    """All rows of a file as instruction and answer, for systems that are handed text.

    Of a conversation the last answer is trained on, and what comes before is its prompt. Raises TgsError
    with file and line of the first problems.
    """
    rows = [plain_row(row) for row in read_rows(open_source(path, asked), asked)]
    if not rows:
        raise nothing_in(path)
    return rows


def plain_row(row: Row) -> CorpusRow:
    """A row as one instruction and one answer."""
    if isinstance(row, CorpusRow):
        return row
    if isinstance(row, Text):
        return CorpusRow("", "", row.text)
    last = max(index for index, turn in enumerate(row.turns) if turn.role == "assistant")
    prompt = "\n".join(turn.content for turn in row.turns[:last])
    return CorpusRow(prompt, "", row.turns[last].content)


def nothing_in(what: object) -> TgsError:
    """Data without a row that trains anything."""
    return bad_data(f"{what}: holds no row with an output", f"each row is {ROW_SHAPE}, messages or text")


def _row(value: dict[str, Any], kind: str) -> Row | None:
    """A row, or None when it trains nothing."""
    if kind == "text":
        text = _clean(value["text"])
        return Text(text) if text.strip() else None
    if kind != "alpaca":
        return Conversation(tuple(map(_spoken, value[_KEY_OF[kind]])))
    row = CorpusRow(_clean(value["instruction"]), _clean(value.get("input")), _clean(value["output"]))
    return row if has_answer(row) else None


def _problem(value: Any, kind: str) -> str:
    if not isinstance(value, dict):
        return f"expected an object {ROW_SHAPE}, got {type(value).__name__}"
    if not kind:
        return f"its keys are {_names(value)}; {_EXPECTED}"
    if kind != "alpaca" and _KEY_OF[kind] not in value:
        return f'"{_KEY_OF[kind]}" is missing, which the first row has (or workload.format asks for)'
    if kind == "text":
        return "" if isinstance(value["text"], str) else '"text" is no text'
    return _turns_problem(value[_KEY_OF[kind]]) if kind != "alpaca" else _alpaca_problem(value)


def _names(value: dict[str, Any]) -> str:
    names = ", ".join(map(str, list(value)[:8]))
    return names[:120] or "none"


def _turns_problem(turns: Any) -> str:
    if not isinstance(turns, list) or not turns:
        return "expected a list of turns, each with role and content (or from and value)"
    for number, turn in enumerate(turns, start=1):
        role, content = _turn(turn)
        if not isinstance(role, str) or content is None:
            return f"turn {number} of {len(turns)}: expected role and content (or from and value) as text"
    has_answers = any(_spoken(turn).role == "assistant" for turn in turns)
    return "" if has_answers else "no turn is an answer (assistant)"


def _turn(turn: Any) -> tuple[Any, str | None]:
    """Role and text; content in parts is joined, parts that are no text are left out."""
    if not isinstance(turn, dict):
        return None, None
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return turn.get("role", turn.get("from")), content if isinstance(content, str) else None


def _spoken(turn: Any) -> Turn:
    role, content = _turn(turn)
    return Turn(_ROLES.get(role, role), _clean(content))


def _alpaca_problem(value: dict[str, Any]) -> str:
    for key in ("instruction", "output"):
        if not isinstance(value.get(key), str):
            return f'"{key}" is missing or no text'
    if not isinstance(value.get("input", ""), str | None):
        return '"input" is no text'
    return ""


def _clean(text: str | None) -> str:
    """Replace lone surrogates, which JSON can write but UTF-8 cannot."""
    if not text or text.isascii():
        return text or ""
    return text.encode("utf-8", "replace").decode("utf-8")


def _row_error(problems: list[str]) -> TgsError:
    shown = problems[:_MAX_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"… and {len(problems) - len(shown)} more")
    return bad_data(
        "\n  ".join(shown), f"each row is {ROW_SHAPE}, messages or text, all alike; workload.format names it"
    )
