"""The scanner of event lines says what Python says, of every piece that it does not leave to Python."""

from __future__ import annotations

import shutil
import struct
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate import Scenario, write_events
from tgsbench.errors import TgsError
from tgsbench.events import native, tail
from tgsbench.events.tail import FileTail
from tgsbench.schema import events as ev

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang", "g++"))), reason="no compiler of C"
)


@cache
def scanner():
    return native.line_scanner(may_compile=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def batches(path, scan, piece):
    """All that a tail says of a file, as texts: NaN is no NaN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "line_scanner", lambda: scan)
        found, one = [], FileTail(path)
        try:
            while not one.at_end:
                found.append(repr(one.read_batch(piece)))
        except TgsError as error:
            found.append(error.msg)
    return [*found, repr(one.place)]


def check(path, piece=1 << 16):
    by_scanner, by_python = batches(path, scanner(), piece), batches(path, None, piece)
    assert by_scanner == by_python
    return by_python


def as_file(folder, lines):
    path = folder / "rank00003.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("piece", [700, 1 << 16, 1 << 22])
@pytest.mark.parametrize("fails_at_step", [None, 40])
def test_whole_files(tmp_path, piece, fails_at_step):
    write_events(
        tmp_path, Scenario(world=4, steps=90, fails_at_step=fails_at_step, profile_steps=2, heartbeat_s=9)
    )
    for path in sorted((tmp_path / "events").iterdir()):
        check(path, piece)


def test_a_usual_piece_is_scanned_and_not_decoded(tmp_path, monkeypatch):
    write_events(tmp_path, Scenario(world=1, steps=30, gpu_period_s=50))
    monkeypatch.setattr(tail, "line_scanner", scanner)
    monkeypatch.setattr(FileTail, "_decode_all", None)
    batch = FileTail(tmp_path / "events" / "rank00000.jsonl").read_batch()
    assert batch is not None and [steps.num_steps for steps in batch.steps] == [3, 30]


def test_more_lines_than_expected_get_more_room(tmp_path):
    encoded = [msgspec.json.encode(ev.Heartbeat(rank=3, seq=seq, t=seq)) for seq in range(native._ROOM + 7)]
    check(as_file(tmp_path, encoded), 1 << 22)


STEP = msgspec.json.encode(
    ev.Step(rank=3, seq=1, t=2.5, step=7, tokens=5, labels=3, step_s=0.1, loss_sum=7.25)
)
GPU = msgspec.json.encode(ev.Gpu(rank=3, seq=1, t=2.5, util=33.25))
BEAT = msgspec.json.encode(ev.Heartbeat(rank=3, seq=1, t=2.5, doing="forward"))
ODD = [
    STEP.replace(b'"labels":3', b'"labels":0'),
    STEP.replace(b'"labels":3', b'"labels":-0'),
    STEP.replace(b'"labels":3', b'"labels":1e999'),
    STEP.replace(b'"tokens":5', b'"tokens":9223372036854775809'),
    STEP.replace(b'"tokens":5', b'"tokens":5.5'),
    STEP.replace(b'"tokens":5', b'"tokens":05'),
    STEP.replace(b'"tokens":5', b'"tokens":5,"tokens":6'),
    STEP.replace(b'"tokens":5', b'"tokens":"5"'),
    STEP.replace(b'"tokens":5', b'"tokens" : 5 '),
    STEP.replace(b'"step":7', b'"step":7.0'),
    STEP.replace(b'"step":7', b'"step":-7'),
    STEP.replace(b'"step":7,', b""),
    STEP.replace(b'"phase":"measure",', b""),
    STEP.replace(b'"phase":"measure"', b'"phase":null'),
    STEP.replace(b'"step_s":0.1', b'"step_s":1000000000.5'),
    STEP.replace(b'"step_s":0.1', b'"step_s":-0.1'),
    STEP.replace(b'"step_s":0.1', b'"step_s":1e-1'),
    STEP.replace(b'"step_s":0.1', b'"step_s":0.10000000000000000555111512312578270'),
    STEP.replace(b'"step_s":0.1', b'"step_s":.1'),
    STEP.replace(b'"step_s":0.1', b'"step_s":0.'),
    STEP.replace(b'"loss_sum":7.25', b'"loss_sum":-7.25'),
    STEP.replace(b'"grad_norm":0.0', b'"grad_norm":null'),
    STEP.replace(b'"grad_norm":0.0', b'"grad_norm":nul'),
    STEP.replace(b'"grad_norm":0.0', b'"grad_norm":{"a":[1,{"b":"}"}]}'),
    STEP.replace(b'"v":1', b'"v":2'),
    STEP.replace(b'"v":1,', b""),
    STEP.replace(b'"rank":3', b'"rank":4'),
    STEP.replace(b'"seq":1', b'"seq":5'),
    STEP.replace(b'"seq":1', b'"seq":1,"type":"gpu"'),
    STEP.replace(b'"type":"step",', b"")[:-1] + b',"type":"step"}',
    STEP + b" ",
    STEP + b"}",
    STEP[:-1],
    STEP[:40] + b"\n" + STEP[40:],
    b"",
    b"  ",
    b"[1]",
    b'{"type":"weather","v":1,"t":1.0,"rank":3,"seq":1}',
    GPU.replace(b'"util":33.25', b'"util":"hot"'),
    GPU.replace(b'"util":33.25,', b""),
    GPU.replace(b'"throttled":""', b'"throttled":7'),
    BEAT.replace(b'"doing":"forward"', b'"doing":"for\\u0077ard"'),
    BEAT.replace(b'"doing":"forward"', '"doing":"vorwärts"'.encode()),
    BEAT.replace(b'"ticks":0', b'"ticks":1.5'),
    msgspec.json.encode(ev.Warn(rank=3, seq=1, t=9.0, code="c", msg="m")),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("is_last", [False, True])
def test_what_is_unusual_is_read_as_python_reads_it(tmp_path, odd, is_last):
    before = msgspec.json.encode(ev.Phase(rank=3, seq=0, t=1.0, phase="measure"))
    after = [] if is_last else [msgspec.json.encode(ev.Step(rank=3, seq=2, t=3.5, step=8, step_s=1 / 3))]
    check(as_file(tmp_path, [before, odd, *after]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_file_with_any_byte_changed_is_read_as_python_reads_it(tmp_path_factory, data):
    lines = [STEP, GPU.replace(b'"seq":1', b'"seq":2'), BEAT.replace(b'"seq":1', b'"seq":3')]
    text = bytearray(b"\n".join([msgspec.json.encode(ev.Phase(rank=3, phase="measure")), *lines, b""]))
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(
            st.sampled_from(b'"\\,:[]{}01.-eE \n\x00\x7f\x80')
        )
    path = tmp_path_factory.mktemp("t") / "rank00003.jsonl"
    path.write_bytes(text)
    check(path)


@settings(max_examples=1000, deadline=None)
@given(st.floats(min_value=0, max_value=1e9) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_the_nearest_doubles(seconds):
    seconds += 0.0  # -0.0 is for Python
    line = msgspec.json.encode(ev.Gpu(rank=3, seq=0, t=1.0, util=seconds)) + b"\n"
    batch = scanner().scan(line, 3, 0)
    assert batch is not None
    assert struct.pack("d", *batch.gpu_utils) == struct.pack("d", seconds)
