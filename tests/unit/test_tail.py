"""Event files are read as they grow; damage is counted, never raised."""

from __future__ import annotations

import os

import msgspec
import pytest

from tgsbench.errors import TgsError
from tgsbench.events import tail as tail_module
from tgsbench.events.tail import FileTail, RunTail
from tgsbench.schema.events import Heartbeat, Step


def line(seq: int, **fields) -> bytes:
    return msgspec.json.encode(Step(step=seq, seq=seq, **fields)) + b"\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rank00000.jsonl"


def test_a_torn_line_waits_for_its_rest(path):
    whole = line(0)
    path.write_bytes(whole[:20])
    tail = FileTail(path)
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(whole[20:])
    assert [event.step for event in tail.read()] == [0]


def test_duplicates_are_dropped_and_late_lines_kept(path):
    path.write_bytes(line(0) + line(2) + line(1) + line(2) + line(0) + line(3))
    tail = FileTail(path)
    assert [event.seq for event in tail.read()] == [0, 2, 1, 3]
    assert tail.skipped == 2


def test_unknown_types_fields_and_damage_are_skipped(path):
    path.write_bytes(
        b'{"v":1,"type":"novelty","seq":0}\n' + b'{"v":1,"type":"heartbeat","seq":1,"mood":"good"}\n'
        b"\xff\xfe garbage\n" + b"[" * 100_000 + b"\n" + line(2)
    )
    tail = FileTail(path)
    assert [type(event) for event in tail.read()] == [Heartbeat, Step]
    assert tail.skipped == 3


def test_a_newer_major_version_is_refused_with_the_remedy(path):
    path.write_bytes(b'{"v":2,"type":"step","seq":0}\n')
    with pytest.raises(TgsError, match="event protocol 2") as caught:
        FileTail(path).read()
    assert "upgrade" in caught.value.hint


def test_a_truncated_file_is_read_again_without_repeats(path):
    path.write_bytes(line(0) + line(1) + line(2))
    tail = FileTail(path)
    tail.read()
    path.write_bytes(line(0) + line(1))
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(line(3))
    assert [event.seq for event in tail.read()] == [3]


def test_ranks_that_come_later_join_in(tmp_path):
    tail = RunTail(tmp_path)
    assert tail.poll() == []
    (tmp_path / "rank00001.jsonl").write_bytes(line(0, rank=1))
    (tmp_path / "notes.txt").write_bytes(b"not events")
    assert [event.rank for event in tail.poll()] == [1]


def test_a_missing_folder_has_no_events(tmp_path):
    assert list(RunTail(tmp_path / "none").read_all()) == []


def test_a_file_with_a_hole_of_a_terabyte_is_read_in_a_few_reads(tmp_path, monkeypatch):
    path = tmp_path / "rank00000.jsonl"
    path.write_bytes(line(0) + b"\n")
    with path.open("r+b") as file:
        file.seek(1 << 40)
        file.write(b"\n" + line(1) + b"\n")
        file.truncate(1 << 41)
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: (reads.append(1), pread(*args))[1])
    tail = FileTail(path)
    events = [event for piece in tail.read_to_end() for event in piece]
    assert [event.seq for event in events] == [0, 1]
    assert len(reads) < 12
    assert tail.num_unread() == 0


def test_a_line_without_end_costs_a_bounded_part_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tail_module, "_MAX_LINE", 1 << 16)
    monkeypatch.setattr(tail_module, "_MAX_DAMAGED", 1 << 18)
    path = tmp_path / "rank00000.jsonl"
    path.write_bytes(line(0) + b"\n" + b"x" * (8 << 20) + b"\n" + line(1) + b"\n")
    tail = FileTail(path)
    events, num_bytes = [], 0
    pread = os.pread

    def counted(*args):
        nonlocal num_bytes
        data = pread(*args)
        num_bytes += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    while not tail.at_end:
        events += tail.read(1 << 15)
    assert [event.seq for event in events] == [0, 1]
    assert tail.skipped > 0
    assert num_bytes < 1 << 20
