"""Event files are read as they grow; damage is counted, never raised."""

from __future__ import annotations

import msgspec
import pytest

from tgsbench.errors import TgsError
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
