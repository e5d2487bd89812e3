"""Memory stays bounded however large a trace is, and the figures do not depend on how it was cut."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cuda_trace
from tests.traces.made import COMM_STREAM, Made, nccl_step
from tests.traces.made_cuda import cuda_rank
from tgsbench.errors import ExitCode
from tgsbench.traces import chunks, row_store, top
from tgsbench.traces import trace as trace_reader
from tgsbench.traces.files import trace_files
from tgsbench.traces.hotspots import analyse_rank
from tgsbench.traces.row_store import DiskTable, DiskTables

GOLDEN = Path(__file__).parents[1] / "data" / "traces"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Two steps of the benchmark's trace: autograd's thread, recomputing, three streams, NCCL's records."""
    path = tmp_path_factory.mktemp("synthetic") / "a.pt.trace.json"
    cuda_trace.write(path, 20_000_000)
    return path


@pytest.fixture(params=["gloo", "nccl", "cuda", "synthetic"])
def trace(request, tmp_path):
    if request.param == "gloo":
        return trace_files(GOLDEN)[0]
    if request.param == "synthetic":
        return request.getfixturevalue("synthetic")
    made = nccl_step() if request.param == "nccl" else cuda_rank(0)
    return made.write(tmp_path / "a.pt.trace.json")


def cut_small(monkeypatch, most_rows: int) -> None:
    """Stretches of some rows, and every row on disk."""
    monkeypatch.setattr(row_store, "IN_MEMORY", 1)
    monkeypatch.setattr(row_store, "STRIDE", 1)
    monkeypatch.setattr(row_store, "_BATCH", most_rows)
    monkeypatch.setattr(chunks, "MOST_ROWS", most_rows)


def same(a, b) -> None:
    """Figures alike to the last digits that the order of adding leaves."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == pytest.approx(b, rel=1e-12)


@pytest.mark.parametrize("most_rows", [50, 1_000, 7_000])
def test_figures_do_not_depend_on_where_a_trace_is_cut(trace, monkeypatch, most_rows):
    whole = analyse_rank(trace)
    cut_small(monkeypatch, most_rows)
    cut = analyse_rank(trace)
    same(msgspec.to_builtins(cut.profile), msgspec.to_builtins(whole.profile))
    assert cut.calls.start.tolist() == whole.calls.start.tolist()
    assert cut.calls.end.tolist() == whole.calls.end.tolist()


@pytest.mark.parametrize("order", ["by kind", "any"])
def test_figures_do_not_depend_on_the_order_of_events(synthetic, tmp_path, monkeypatch, order):
    whole = msgspec.to_builtins(analyse_rank(synthetic).profile)
    path = tmp_path / "other.pt.trace.json"
    if order == "by kind":
        cuda_trace.write_by_kind(path, 20_000_000)
    else:
        document = json.loads(synthetic.read_text())
        random.Random(3).shuffle(document["traceEvents"])
        path.write_text(json.dumps(document))
    cut_small(monkeypatch, 5_000)
    found = msgspec.to_builtins(analyse_rank(path).profile)
    for part in ("parts_ms", "exposed_ms", "recompute_ms", "collectives", "steps", "step_ms"):
        same(found[part], whole[part])
    by_name = [{(op["name"], op["kind"], op["source"]): op for op in side["top"]} for side in (found, whole)]
    same(*by_name)


def test_one_step_longer_than_a_stretch(tmp_path, monkeypatch):
    """A trace that marks no step, its operators never quiet: one is open on some thread at every instant."""
    made = Made()
    for number in range(400):
        thread = 100 + number % 2
        made.op("aten::mm", 10 * number, 15, thread, **{"Input Dims": [[8, 4], [4, 2]]})
        made.kernel("nvjet", 10 * number + 100, 9, launch=10 * number + 2, tid=thread)
        made.kernel("ncclDevKernel_AllReduce_Sum(x)", 10 * number + 105, 8, stream=COMM_STREAM)
    path = made.write(tmp_path / "a.json")
    whole = msgspec.to_builtins(analyse_rank(path).profile)
    cut_small(monkeypatch, 20)
    same(msgspec.to_builtins(analyse_rank(path).profile), whole)
    assert whole["parts_ms"]["gemm"] == pytest.approx(3.6)


def test_kernels_whose_launch_call_is_missing_belong_to_their_operator(tmp_path, monkeypatch):
    """As on devices whose runtime calls are not traced: External id says which operator it was."""
    made = Made()
    for number in range(1, 101):
        made.op("aten::mm", 10 * number, 5, **{"External id": number})
        made.kernel("helper", 3000 + 10 * number, 4, **{"External id": number})
    path = made.write(tmp_path / "a.json")
    cut_small(monkeypatch, 20)
    assert analyse_rank(path).profile.parts_ms["gemm"] == pytest.approx(0.4)


def test_a_thread_that_is_silent_for_whole_stretches(tmp_path, monkeypatch):
    """On CPUs, without marked steps: the busiest thread is the training loop's; others go on after it."""
    made = Made()
    for number in range(60):
        made.op("aten::mm", 10 * number, 5)
    for number in range(50):
        made.op("aten::add", 1000 + 10 * number, 5, 200)
    path = made.write(tmp_path / "a.json")
    whole = msgspec.to_builtins(analyse_rank(path).profile)
    cut_small(monkeypatch, 10)
    same(msgspec.to_builtins(analyse_rank(path).profile), whole)
    assert whole["parts_ms"]["gemm"] == pytest.approx(0.3)


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        analyse_rank(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_trace(tmp_path, monkeypatch):
    """With all tables in memory it is 1.7 times as much, with one stretch for all of the trace 2.5 times."""
    monkeypatch.setattr(trace_reader, "CHUNK", 1 << 18)
    monkeypatch.setattr(row_store, "IN_MEMORY", 1 << 19)
    monkeypatch.setattr(row_store, "_BATCH", 2_000)
    monkeypatch.setattr(chunks, "MOST_ROWS", 4_000)
    path = tmp_path / "a.pt.trace.json"
    analyse_rank(nccl_step().write(path))  # what it imports is no part of it
    peaks = [peak_bytes(path) for _ in cuda_trace.growing(path, [14_000_000, 4 * 14_000_000])]
    assert path.stat().st_size >= 4 * 14_000_000
    assert peaks[1] <= 1.3 * peaks[0], peaks


FULL = """
import resource, sys
from tgsbench.cli.main import main
from tgsbench.traces import row_store
row_store.IN_MEMORY = 1 << 16
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
sys.argv = ["tgsbench", "profile", sys.argv[1]]
main()
"""


def test_a_full_disk_says_where_and_leaves_nothing(synthetic, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(synthetic)],
        cwd=ROOT, env={"PATH": "/usr/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == ExitCode.STORE, done.stderr
    assert str(tmp_path) in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_the_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(row_store, "IN_MEMORY", 1)
    with DiskTables() as scratch:
        offset = scratch.write([np.arange(1000)])
        assert list(tmp_path.iterdir()) == []
        assert np.frombuffer(scratch.read(offset, 8000), np.int64)[-1] == 999


rows = st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 9), st.integers(0, 6)), max_size=40)


def spilled(scratch: DiskTables, found: list, size: int) -> DiskTable:
    table = DiskTable(scratch, ("start", "end", "key"), start=np.int64, end=np.int64, key=np.int64)
    for at in range(0, len(found), size):
        starts, durs, keys = zip(*found[at : at + size], strict=True)
        ends = [start + dur for start, dur in zip(starts, durs, strict=True)]
        table.append(start=starts, end=ends, key=keys)
    return table


@given(rows, st.integers(1, 7), st.integers(-25, 25), st.integers(1, 20), st.lists(st.integers(0, 8)))
def test_reading_back_against_brute_force(found, size, since, length, keys):
    with DiskTables() as scratch:
        table, until = spilled(scratch, found, size), since + length
        met = table.between("start", "end", since, until)["row"].tolist()
        assert met == [
            row for row, (start, dur, _) in enumerate(found)
            if (start < until and start + dur > since) or since <= start < until
        ]  # fmt: skip
        known, given_back = table.find("key", np.array(keys, np.int64), ("start",))
        for key, there, start in zip(keys, known.tolist(), given_back["start"].tolist(), strict=True):
            first = next((row[0] for row in found if row[2] == key and key), None)
            assert (start if there else None) == first
        assert table.where(lambda rows: rows["key"] == 3)["row"].tolist() == [
            row for row, (_, _, key) in enumerate(found) if key == 3
        ]


durations = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9) | st.integers(0, 2**46)), min_size=1)


@given(durations, st.integers(1, 5))
def test_p95_is_that_of_all_durations(found, size):
    def measured():
        for at in range(0, len(found), size):
            key, dur = np.array(found[at : at + size], np.int64).T
            yield top.HotMeasure(key, dur, np.ones(len(key)))

    for entry in top.ranked(measured):
        dur = sorted(d for key, d in found if key == entry.key)
        assert (entry.calls, entry.total_ns) == (len(dur), sum(dur))
        assert entry.p95_ns == dur[int(np.ceil(0.95 * len(dur))) - 1]
