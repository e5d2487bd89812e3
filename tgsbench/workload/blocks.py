"""A file of data as blocks of rows, read as it is needed: JSON lines, a JSON array, CSV, plain text, Parquet,
and the folders that `save_to_disk` of datasets writes."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.safe_files import inside, printable, read_regular, reason_of
from tgsbench.schema.preset import DataFormat

BLOCK_BYTES: Final = 2 << 20
"""Of a block, about: a worker has one at a time, so this and the longest row bound its memory."""
MAX_ROW_BYTES: Final = 16 << 20
"""Four million tokens: a longer row is a file whose rows are not where we look for them."""
_BLOCK_ROWS: Final = 1000
ROW_SHAPE: Final = '{"instruction": "…", "input": "…", "output": "…"}'
_PLAIN: Final = (".txt", ".text", ".md")
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\r\n"
T = TypeVar("T")


class DataBlock(NamedTuple):
    """Rows that follow each other; `data` holds JSON lines that nobody has parsed, else `values` the rows."""

    first: int
    """Number of the first line of `data`."""
    data: bytes = b""
    values: tuple[tuple[int, Any], ...] = ()
    """Rows, each with its line, or with its number in a table."""
    size: int = 0
    """Bytes of the file that were read for it."""


class Source(NamedTuple):
    """Where rows come from."""

    name: str
    """As it is named in a message, before the number of a row."""
    what: str
    """What is read, in words."""
    blocks: Callable[[], Iterator[DataBlock]]
    size: int = 0
    """Bytes in all; 0: not known."""
    kind: str = ""
    """Format of every row where the source settles it: `text` for plain text."""
    held: bool = False
    """Are the rows in memory?"""

    @property
    def title(self) -> str:
        """The name without a row."""
        return self.name.removesuffix(" row ").rstrip(":")

    def at(self, number: int) -> str:
        """A row's place, for a message."""
        return f"{self.name}{number}"


def open_source(path: Path, asked: DataFormat = "auto") -> Source:
    """The rows of a file or folder; nothing but its beginning is read before they are asked for.

    Raises TgsError (BAD_DATA) for what cannot be opened or is no data that we read.
    """
    if path.is_dir():
        return _folder(path)
    begin = _beginning(path)
    size = path.stat().st_size
    suffix = path.suffix.lower()
    if asked in ("lines", "paragraphs") or (asked == "auto" and suffix in _PLAIN):
        return _plain(path, asked, begin, size)
    if begin.startswith(b"PAR1") or suffix == ".parquet":
        return Source(f"{path}: row ", "Parquet", lambda: _parquet(path), size)
    if suffix in (".csv", ".tsv"):
        return Source(f"{path}:", suffix[1:].upper(), lambda: _csv(path, suffix), size)
    if begin.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return Source(f"{path}:", "a JSON array", lambda: _array(path), size)
    return Source(f"{path}:", "JSON lines", lambda: _lines(path), size)


def rows_of(block: DataBlock, source: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each row. Raises TgsError for a line that is no JSON."""
    if block.data:
        for number, line in enumerate(block.data.split(b"\n"), start=block.first):
            if line.strip():
                yield number, _parsed(line, source, number)
    yield from block.values


def bad_data(msg: str, hint: str) -> TgsError:
    """Data that cannot be read, and what would do."""
    return TgsError(msg, hint=hint, exit_code=ExitCode.BAD_DATA)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        hint = "workload.corpus or workload.file names a file of JSON, JSON lines, CSV, Parquet or text"
        raise bad_data(f"{path}: {error.strerror}", hint) from error


def _parsed(line: bytes, source: str, number: int) -> Any:
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError):
        pass  # Python's own reader takes lone surrogates, and says better what is wrong
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _no_text(f"{source}{number}") from error
    except (ValueError, RecursionError) as error:
        raise _no_json(f"{source}{number}", error) from error


def _lines(path: Path) -> Iterator[DataBlock]:
    """Whole lines, unparsed: workers do that, several at a time."""
    first = 1
    with path.open("rb") as file:
        rest = b""
        while piece := file.read(BLOCK_BYTES):
            data = rest + (piece.removeprefix(b"\xef\xbb\xbf") if first == 1 and not rest else piece)
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if len(rest) > MAX_ROW_BYTES:
                raise _too_long(f"{path}:{first + data.count(10, 0, end)}")
            if end:
                yield DataBlock(first, data[:end], size=len(piece))
                first += data.count(b"\n", 0, end)
        if rest:
            yield DataBlock(first, rest)


def _array(path: Path) -> Iterator[DataBlock]:
    return _grouped(_array_rows(path))


def _array_rows(path: Path) -> Iterator[tuple[int, Any, int]]:
    """Rows of one JSON array, from a window that moves over the file."""
    with path.open("rb") as file:
        window = _Window(file, path)
        window.skip(_SPACE + "\ufeff")
        window.at += 1  # the bracket
        while True:
            window.skip(_SPACE + ",")
            if window.text[window.at : window.at + 1] == "]":
                return
            line = window.line
            yield line, *window.value()


class _Window:
    """The part of a file's text that is being read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.text = ""
        self.at = 0
        self.line = 1
        self._file = file
        self._path = path
        self._torn = b""

    def skip(self, ignored: str) -> None:
        """Go to the next character that counts, counting lines."""
        while True:
            begin = self.at
            while self.at < len(self.text) and self.text[self.at] in ignored:
                self.at += 1
            self.line += self.text.count("\n", begin, self.at)
            if self.at < len(self.text) or not self._more():
                return

    def value(self) -> tuple[Any, int]:
        """The value that begins here, and its characters; reads on where it is not all there."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > MAX_ROW_BYTES:
                    raise _too_long(f"{self._path}:{self.line}") from error
                if self._more():
                    continue
                line = self.line + self.text.count("\n", self.at, error.pos)
                raise _no_json(f"{self._path}:{line}", error) from error
            except (ValueError, RecursionError) as error:
                raise _no_json(f"{self._path}:{self.line}", error) from error
            size = end - self.at
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            return value, size

    def _more(self) -> bool:
        """Read on; a value that is not all there doubles what is read, to be parsed a few times only."""
        size = max(BLOCK_BYTES, len(self.text) - self.at)
        data = self._file.read(size)
        text, self._torn = _decoded(self._torn + data, not data, f"{self._path}:", self.line)
        self.text = self.text[self.at :] + text
        self.at = 0
        return bool(text)


def _decoded(data: bytes, is_last: bool, name: str, line: int) -> tuple[str, bytes]:
    """Text, and the bytes of a last character that is not all there."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError as error:
        if not is_last and len(data) - error.start < 4 and error.reason == "unexpected end of data":
            return data[: error.start].decode(), data[error.start :]
        raise _no_text(f"{name}{line + data.count(10, 0, error.start)}") from error


def _csv(path: Path, suffix: str) -> Iterator[DataBlock]:
    return _grouped(_csv_rows(path, "\t" if suffix == ".tsv" else ","))


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Any, int]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open("rb") as file:
        reader = csv.DictReader(_text_lines(file, path), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                known = {key: value for key, value in row.items() if key is not None}
                yield reader.line_num, known, sum(len(value or "") for value in known.values())
        except csv.Error as error:
            hint = "the first line names columns: instruction, input and output, or text"
            raise bad_data(f"{path}:{reader.line_num + 1}: not valid CSV: {error}", hint) from error


def _text_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """Lines with their ends, none longer than a row may be."""
    for number in itertools.count(1):
        line = file.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_ROW_BYTES:
            raise _too_long(f"{path}:{number}")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _no_text(f"{path}:{number}") from error


def _plain(path: Path, asked: str, begin: bytes, size: int) -> Source:
    """Documents of plain text; the file's beginning says whether empty lines part them."""
    parted = b"\n\n" in begin.replace(b"\r\n", b"\n").strip(b"\n")
    by = asked if asked in ("lines", "paragraphs") else "paragraphs" if parted else "lines"
    rows = _line_rows if by == "lines" else _paragraph_rows
    return Source(f"{path}:", f"plain text, {by}", lambda: _grouped(rows(path)), size, "text")


def _line_rows(path: Path) -> Iterator[tuple[int, Any, int]]:
    with path.open("rb") as file:
        for number, line in enumerate(_text_lines(file, path), start=1):
            if text := line.strip():
                yield number, {"text": text}, len(line)


def _paragraph_rows(path: Path) -> Iterator[tuple[int, Any, int]]:
    with path.open("rb") as file:
        lines: list[str] = []
        first, size = 1, 0
        for number, line in enumerate(_text_lines(file, path), start=1):
            if line.strip():
                first = first if lines else number
                lines.append(line)
                size += len(line)
                if size > MAX_ROW_BYTES:
                    raise _too_long(f"{path}:{first}")
            elif lines:
                yield first, {"text": "".join(lines).strip()}, size
                lines, size = [], 0
        if lines:
            yield first, {"text": "".join(lines).strip()}, size


def _grouped(rows: Iterable[tuple[int, Any, int]]) -> Iterator[DataBlock]:
    """Rows of (number, value, size) as blocks."""
    held: list[tuple[int, Any]] = []
    size = 0
    for number, value, length in rows:
        held.append((number, value))
        size += length
        if size >= BLOCK_BYTES:
            yield DataBlock(held[0][0], values=tuple(held), size=size)
            held, size = [], 0
    if held:
        yield DataBlock(held[0][0], values=tuple(held), size=size)


def tables(batches: Iterable[Any]) -> Iterator[DataBlock]:
    """Arrow's record batches, or tables, as blocks; rows are numbered from 1."""
    number = 1
    for batch in batches:
        rows = batch.to_pylist()
        yield DataBlock(number, values=tuple(enumerate(rows, start=number)), size=batch.nbytes)
        number += len(rows)


def _parquet(path: Path) -> Iterator[DataBlock]:
    parquet = _arrow("pyarrow.parquet", "Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            columns = wanted_columns(file.schema_arrow.names, path)
            yield from tables(file.iter_batches(_BLOCK_ROWS, columns=columns))
    except _unreadable() as error:
        why = _first_line(error)
        raise bad_data(f"{path}: not a Parquet file that can be read: {why}", "write it anew") from error


class _Splits(msgspec.Struct):
    """dataset_dict.json."""

    splits: list[str] = []


class _DataFile(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    """state.json."""

    files: list[_DataFile] = msgspec.field(name="_data_files", default_factory=list)


def _folder(path: Path) -> Source:
    """What `save_to_disk` wrote: one split, or several, of which `train` is read."""
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = [printable(name) for name in _document(splits, _Splits).splits]
        name = "train" if "train" in names else names[0] if len(names) == 1 else ""
        if not name:
            raise bad_data(
                f"{path}: holds the splits {', '.join(names)}, and none is called train",
                f"name one: {path}/{names[0] if names else 'SPLIT'}",
            )
        return _split(_part(path, name))
    return _split(path)


def _split(path: Path) -> Source:
    state = path / "state.json"
    if not state.is_file():
        raise bad_data(
            f"{path}: a folder, and no state.json in it as save_to_disk of datasets writes one",
            "let workload.corpus or workload.file name a file in it, or save the data set by save_to_disk",
        )
    files = [_part(path, file.filename) for file in _document(state, _State).files]
    what = f"data set of {path.name}" if path.name == "train" else "data set saved to disk"
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Source(f"{path}: row ", what, lambda: tables(_arrow_batches(files)), size)


def _part(folder: Path, name: str) -> Path:
    """What a data set names in its folder. Raises TgsError for what no file is called, or leads out of it."""
    try:
        found = inside(folder, name)
        found.stat()
        return found
    except (OSError, ValueError) as error:
        raise bad_data(
            f"{folder}: {name[:60]!r} cannot be read: {reason_of(error)}", "save the data set anew"
        ) from error


def _arrow_batches(files: list[Path]) -> Iterator[Any]:
    arrow, ipc = _arrow("pyarrow", "a data set saved to disk"), _arrow("pyarrow.ipc", "a data set")
    for path in files:
        try:
            with arrow.memory_map(str(path)) as mapped:
                for batch in ipc.open_stream(mapped):
                    columns = wanted_columns(batch.schema.names, path)
                    yield from _sliced(batch.select(columns))
        except _unreadable() as error:
            why = _first_line(error)
            raise bad_data(f"{path}: not an Arrow file that can be read: {why}", "save it anew") from error


def _unreadable() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a damaged file; names that are no UTF-8 come as a ValueError."""
    return (OSError, ValueError, _arrow("pyarrow", "Parquet").ArrowException)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _sliced(batch: Any) -> Iterator[Any]:
    return (batch.slice(first, _BLOCK_ROWS) for first in range(0, batch.num_rows, _BLOCK_ROWS))


COLUMNS: Final = ("instruction", "input", "output", "messages", "conversations", "text")
"""What a table may hold for us; other columns are not read."""


def wanted_columns(names: list[str], path: Path | str) -> list[str]:
    """The columns of a table that we read. Raises TgsError when there is none."""
    known = [name for name in names if name in COLUMNS]
    if known:
        return known
    raise bad_data(
        f"{path}: its columns are {', '.join(names)}",
        "expected instruction and output, messages, conversations, or text: rename a column",
    )


def _document(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(read_regular(path, 1 << 20, follow=True), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise bad_data(f"{path}: cannot be read: {reason_of(error)}", "save the data set anew") from error


def _arrow(name: str, what: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TgsError(
            f"{what} needs the package pyarrow, which is not installed",
            hint=f"{pip_install('train')}, or write JSON lines",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error


def _no_json(place: str, error: ValueError | RecursionError) -> TgsError:
    """Besides wrong syntax, json refuses numbers of over 4,300 digits and nests of over 1,000 brackets."""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else reason_of(error)
    return bad_data(
        f"{place}: not valid JSON: {reason}", f"write one array of rows, or one row a line: {ROW_SHAPE}"
    )


def _no_text(place: str) -> TgsError:
    return bad_data(f"{place}: not UTF-8 text", "convert the file to UTF-8")


def _too_long(place: str) -> TgsError:
    return bad_data(
        f"{place}: a row of more than {MAX_ROW_BYTES >> 20} MiB",
        "write one row a line, and split documents of more than 4 M tokens",
    )
