"""Reading: layouts, chunks, gzip; files that are no traces end in one clear error."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import bounded, broken, documents, dumped, mutated
from tests.traces.made import Made, nccl_step
from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces import event_boundary, trace
from tgsbench.traces.analyse import analyse
from tgsbench.traces.event import Span
from tgsbench.traces.hotspots import analyse_rank
from tgsbench.traces.perfetto import merge
from tgsbench.traces.trace import TraceReader


def names(path: Path) -> list[str]:
    reader = TraceReader(path)
    return [e.name for events in reader.chunks() for e in events if isinstance(e, Span)]


@pytest.mark.parametrize("style", ["torch", "compact", "dumps", "indented"])
@pytest.mark.parametrize("chunk", [64, 200, 1000, 4 << 20])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_every_layout_and_chunk_size_reads_alike(tmp_path, monkeypatch, style, chunk, suffix):
    monkeypatch.setattr(trace, "CHUNK", chunk)
    made = nccl_step()
    made.op(
        'tricky },\n {"name": "\\" ]', 1, 1, **{"Input Dims": [[1], [[2, 3]]], "x": [{"a": 1}, {"b": []}]}
    )
    path = made.write(tmp_path / f"a{suffix}", style)
    assert names(path) == [e["name"] for e in made.events if e["ph"] == "X"]


def test_a_bare_array_of_events_is_a_trace(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(nccl_step().events))
    assert len(names(path)) == sum(e["ph"] == "X" for e in nccl_step().events)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"{}", "holds no traceEvents"),
        (b"hello", "is no JSON"),
        (b"\x80\x04\x95", "is no JSON"),
        (b'{"traceEvents": 7}', "holds no traceEvents"),
        (b'{"traceEvents": []}', "no timed event"),
        (b'{"traceEvents": [{"ph": "X", "ts": 1, "dur": 2', "cut off"),
        (b'{"traceEvents": [{"ph": "X", "ts": 1, "dur": 2}, ', "cut off"),
        (b'{"traceEvents": [{"ph": nonsense}]}', "broken JSON"),
        (b'{"traceEvents": [' + b"[" * 100_000, "cut off"),
        (b'{"traceEvents": [{"a": ' + b"[" * 9999 + b"]" * 9999 + b"}]}", "nested too deeply"),
        (b"\x1f\x8b" + b"garbage" * 9, "cannot be read"),
        (gzip.compress(b'{"traceEvents": [{"ph": "X", "ts": 1}]}', mtime=0)[:-12], "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_trace_says_why(tmp_path, data, words):
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(TgsError) as caught:
        analyse([path], "bad")
    assert words in caught.value.msg
    assert str(path) in caught.value.msg
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_torn_trace_says_how_much_was_there(tmp_path):
    whole = nccl_step().write(tmp_path / "a.json").read_bytes()
    (tmp_path / "torn.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TgsError, match=r"cut off after \d+ events"):
        analyse([tmp_path / "torn.json"], "x")


def test_absurd_times_are_left_out_and_counted(tmp_path):
    made = nccl_step()
    for ts, dur in ((0, -5), (1e300, 1), (5, 1e300), (2**80, 1), (3, float("nan")), (4, float("inf"))):
        made.op("aten::mm", ts, dur)
    made.events.append({"ph": "X", "cat": "kernel", "name": 7, "ts": "soon"})
    made.events.append(
        {"ph": "X", "cat": "kernel", "name": "k", "ts": 1, "dur": 1, "args": {"correlation": 2**70}}
    )
    made.events.append(["no event"])
    made.events.append({"ph": "?", "name": "unknown phase"})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(made.document()))
    found = analyse_rank(path).profile
    clean = analyse_rank(nccl_step().write(tmp_path / "b.json")).profile
    assert found.parts_ms == clean.parts_ms
    assert found.num_broken == 10
    assert any("10 events" in text for text in analyse([path], "x").caveats)


def test_nanoseconds_three_months_after_the_base(tmp_path):
    """There a float64 holds half nanoseconds: operators that only touch must not be taken for crossing."""
    made, base_us, noise, ns = Made(), 4_458_676_522_797, random.Random(1), 0
    made.mark("ProfilerStep#1", base_us, 1000)
    for number in range(200):
        first, second = noise.randint(1000, 3000), noise.randint(1000, 3000)
        made.op("aten::reshape", base_us + ns / 1000, first / 1000)
        ns += first
        made.mark("tgsbench::loss", base_us + ns / 1000, second / 1000)
        made.op("aten::mm", base_us + ns / 1000, second / 1000)
        made.kernel("helper", base_us + 1500 + 4 * number, 3, launch=base_us + (ns + 500) / 1000)
        ns += second
    found = analyse_rank(made.write(tmp_path / "a.json")).profile
    assert found.parts_ms["loss"] == pytest.approx(200 * 0.003)


def test_a_byte_order_mark_is_no_part_of_a_trace(tmp_path):
    path = nccl_step().write(tmp_path / "a.json")
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert analyse([marked], "x").parts_ms == analyse([path], "x").parts_ms
    assert merge([marked], tmp_path / "all.json") > 0


def test_bytes_that_are_no_utf8_do_no_harm(tmp_path):
    path = nccl_step().write(tmp_path / "a.json")
    path.write_bytes(path.read_bytes().replace(b"multi_tensor", b"multi\xff\x01tensor"))
    assert analyse_rank(path).profile.step_ms == 1.0


def test_half_a_surrogate_pair_in_the_head_does_no_harm(tmp_path):
    half = "\ud800"
    job = {"backend": "nccl", "rank": half, "world_size": 2}
    made = Made(deviceProperties=[{"name": half}], host_name=half, distributedInfo=job)
    made.kernel("nvjet", 0, 50)
    found = analyse([made.write(tmp_path / "a.json")], "x")
    assert (found.device_name, found.ranks[0].worker, found.ranks[0].rank) == ("?", "?", 0)
    msgspec.json.encode(found)


BOUNDED = """
import resource, sys
from pathlib import Path
from tgsbench.errors import TgsError
from tgsbench.traces.analyse import analyse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    analyse([Path(sys.argv[1])], "x")
except TgsError as error:
    print(error.msg)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b'{"traceEvents": [{"ph": "X", "name": "', b'"}]}', "an event of more than 32 MiB"),
        (b'{"note": "', b'", "traceEvents": []}', "no traceEvents in its first 16 MiB"),
    ],
)
def test_a_string_of_100_mb_ends_in_bounded_memory(tmp_path, before, after, words):
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.write(before)
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(after)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(path)], capture_output=True, text=True, check=True
    )
    message, grown_mib = done.stdout.splitlines()
    assert words in message
    assert int(grown_mib) < 200


TEMPLATE = Made().document() | {"traceEvents": {str(i): e for i, e in enumerate(nccl_step().events)}}


@bounded
@given(data=broken(mutated(TEMPLATE, 6).map(lambda d: dumped(_as_trace(d)))))
def test_any_bytes_give_figures_or_one_clear_error(tmp_path, data):
    path = tmp_path / "fuzz.json"
    path.write_bytes(data)
    try:
        found = analyse_rank(path).profile
    except TgsError as error:
        assert error.exit_code == ExitCode.BAD_INPUT
    else:
        assert sum(found.parts_ms.values()) == pytest.approx(found.step_ms)


def _as_trace(document):
    events = document.get("traceEvents")
    return document | {"traceEvents": list(events.values())} if isinstance(events, dict) else document


@given(documents, st.integers(0, 60))
def test_exact_end_is_after_the_last_whole_event(document, cut):
    text = bytearray(dumped([document, {"a": document}, {"b": 1}]))
    found = event_boundary.exact_end(text, len(text))
    assert found.closed
    assert text[found.events - 1] == ord("}")
    part = max(1, len(text) - cut)
    torn = event_boundary.exact_end(text, part)
    assert torn.events <= part
    if torn.events:
        json.loads(bytes(text[: torn.events]) + b"]")
