"""The compiled scanner says what Python says, of every chunk that it does not leave to Python."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.made import Made, nccl_step
from tgsbench.system.native import library
from tgsbench.traces import native, trace
from tgsbench.traces.analyse import analyse
from tgsbench.traces.columns import Columns
from tgsbench.traces.trace import TraceReader

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang", "g++"))), reason="no compiler of C"
)
DATA = Path(__file__).parent.parent / "data"
TRACES = sorted(path for folder in DATA.glob("traces*") for path in folder.rglob("*.json*"))


@pytest.fixture
def compiled(monkeypatch):
    """Any trace is worth compiling for; returns what turns the scanner off."""
    monkeypatch.setattr(native, "_WORTHWHILE", 0)
    library.cache_clear()

    def off() -> None:
        monkeypatch.setattr(native, "scanner_for", lambda path: None)

    return off


def rows(chunk: Columns) -> list[tuple]:
    """A chunk's rows as values."""
    at = np.arange(len(chunk.ts))
    texts = [[chunk.texts[code] for code in getattr(chunk, name)] for name in ("category", "name", "tid")]
    return list(
        zip(
            chunk.ts.tolist(), chunk.dur.tolist(), chunk.correlation.tolist(), chunk.external.tolist(),
            chunk.sequence.tolist(), *texts, [chunk.texts[code] for code in chunk.device],
            [chunk.records[code] for code in chunk.record], chunk.shapes(at), strict=True,
        )
    )  # fmt: skip


def read(path: Path) -> tuple[list[tuple], int]:
    reader = TraceReader(path)
    return [row for chunk in reader.columns() for row in rows(chunk)], reader.num_events


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_profiles_are_alike_with_and_without_the_scanner(path, compiled):
    with_it = msgspec.to_builtins(analyse([path], "made", 1))
    compiled()
    assert with_it == msgspec.to_builtins(analyse([path], "made", 1))


def test_the_scanner_reads_torchs_layout_and_all_that_is_wanted(tmp_path, compiled):
    made = nccl_step()
    made.op("aten::mm", 3, 1, **{"Input Dims": [[2, 3], [3, 4]], "Input type": ["float"], "External id": 9})
    made.span("python_function", "train.py(3): step", 1, 1)
    made.span("python_function", "nn.Module: Linear_0", 1, 1)
    made.span("kernel", 'größer \u4e2d \\ " kernel', 4458676522705.757, 0.125, 7, device=3)
    path = made.write(tmp_path / "a.json", "dumps")
    buffer = bytearray(json.dumps(made.events)[:-1].encode() + b",")
    scanner = native.scanner_for(path)
    assert scanner is not None
    scanned = scanner.scan(buffer, 1, len(buffer) - 1)
    assert scanned is not None and scanned.num_events == len(made.events)
    by_scanner = rows(scanned)
    scanner.close()
    compiled()
    assert (by_scanner, len(made.events)) == read(path)
    assert len(by_scanner) == sum(e["ph"] == "X" for e in made.events) - 1


@pytest.mark.parametrize("chunk", [300, 2000])
def test_more_events_than_expected_get_more_room(tmp_path, monkeypatch, compiled, chunk):
    monkeypatch.setattr(trace, "CHUNK", chunk)
    events = [{"ph": "X", "ts": number, "dur": 1, "cat": "cpu_op"} for number in range(400)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"traceEvents": events}, separators=(",", ":")))
    with_it = read(path)
    compiled()
    assert with_it == read(path) and with_it[1] == 400


def small_chunks(tmp_path, monkeypatch) -> Path:
    """Of 400 operators with arguments; a chunk holds a dozen."""
    monkeypatch.setattr(trace, "CHUNK", 2000)
    events = [
        {"ph": "X", "name": f"op{n}", "ts": n, "dur": 1, "cat": "cpu_op", "args": {"Input Dims": [[n, 7]]}}
        for n in range(400)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"traceEvents": events}, separators=(",", ":")))
    return path


def test_a_chunk_says_the_same_once_the_next_one_is_read(tmp_path, monkeypatch, compiled):
    path = small_chunks(tmp_path, monkeypatch)
    reader = TraceReader(path)
    monkeypatch.setattr(trace, "_ahead", lambda batches: batches)
    late = [row for chunk in _with_the_next(reader.columns()) for row in rows(chunk)]
    assert late == read(path)[0] and len(late) == 400


def _with_the_next(chunks: Iterator[Columns]) -> Iterator[Columns]:
    """Each chunk, after the one behind it was read."""
    last = next(chunks)
    for chunk in chunks:
        yield last
        last = chunk
    yield last


def test_who_stops_reading_leaves_no_thread(tmp_path, monkeypatch, compiled):
    chunks = TraceReader(small_chunks(tmp_path, monkeypatch)).columns()
    next(chunks)
    assert any(thread.name.startswith("tgsbench-trace") for thread in threading.enumerate())
    chunks.close()
    assert not any(thread.name.startswith("tgsbench-trace") for thread in threading.enumerate())


ODD = [
    '{"ph": "X", "ts": 1, "dur": 2, "args": null}',
    '{"ph": "X", "ts": "1", "dur": 2}',
    '{"ph": "q"}',
    "{}",
    "7",
    '{"ph": "X", "ts": 1e3, "dur": 2}',
    '{"ph": "X", "ts": 9007199254740993.25, "dur": 0.1}',
    '{"ph": "i", "s": "t"}',
    '{"ph": "X", "ts": 1, "dur": 2, "args": {"External id": 1.5}}',
    '{"ph": "X", "name": "\\ud83d\\ude00"}',
    '{"ph": "X", "ts": 1, "dur": 2, "args": {"correlation": 123456789012345678901}}',
    '{"p\\u0068": "X"}',
    '{"ph": "X", "args": {"Collective name": null, "Group size": null, "device": null}, "cat": "kernel"}',
    '{"ph": "X", "args": {"Collective name": 7}}',
    '{"ph": "X", "tid": 1.5}',
    '{"ph": "X", "ph": "X", "ts": 3}',
    '{"ph": "X", "args": {"x": [[], {}, [{"a": [1, -2.5e-3, true, null, "\\t"]}]]}}',
    '{"ph": "X", "x": 01}',
    '{"ph": "X", "cat": "python_function", "name": "f", "ts": "soon"}',
    '{"ph": "X", "x": "\\q"}',
    '{"ph": "X", "x": [1,]}',
]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_unusual_is_read_as_python_reads_it(tmp_path, compiled, odd):
    text = json.dumps(nccl_step().document())
    path = tmp_path / "a.json"
    path.write_text(text.replace('"traceEvents": [', f'"traceEvents": [{odd}, ', 1))
    with_it = outcome(path)
    compiled()
    assert with_it == outcome(path)


def outcome(path: Path) -> object:
    try:
        return read(path)
    except Exception as error:
        return type(error).__name__, str(error)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_trace_with_any_byte_changed_is_read_as_python_reads_it(tmp_path_factory, data):
    made = Made()
    made.op("aten::mm", 1, 5, **{"Input Dims": [[2, 3], [3, 4]], "External id": 2, "Sequence number": 4})
    made.kernel(
        "ncclDevKernel", 7, 2.25, 3, **{"Collective name": "allreduce", "Group size": 4, "dtype": "Half"}
    )
    made.mark("ProfilerStep#1", 0, 20)
    text = bytearray(json.dumps(made.document(), indent=1).encode())
    begin = text.index(b"traceEvents")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(begin, len(text) - 1))
        text[at] = data.draw(st.sampled_from(b'"\\,:[]{}01.-eXu \n\x00\x1f\x80\xff'))
    path = tmp_path_factory.mktemp("t") / "a.json"
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_WORTHWHILE", 0)
        library.cache_clear()
        with_it = outcome(path)
        patch.setattr(native, "scanner_for", lambda path: None)
        assert with_it == outcome(path)


def test_without_a_compiler_or_a_folder_python_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_WORTHWHILE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("tgsbench.system.native._COMPILERS", ("no-such-compiler",))
    path = nccl_step().write(tmp_path / "a.json")
    library.cache_clear()
    assert native.scanner_for(path) is None and read(path)[1]
    (tmp_path / "none").write_text("a file")
    library.cache_clear()
    assert native.scanner_for(path) is None
    library.cache_clear()
