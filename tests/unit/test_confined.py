"""A run folder that strangers wrote is read without leaving it, blocking or growing."""

from __future__ import annotations

import json
import os
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tgsbench.errors import TgsError
from tgsbench.events.tail import FileTail, RunTail
from tgsbench.safe_files import harmless, inside, open_regular, read_regular, toml_document
from tgsbench.store.run_dir import RunDir, Store


def test_links_fifos_devices_and_folders_are_no_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("outside")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "fifo", "folder", "missing"):
        with pytest.raises(OSError):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(type(secret)("/dev/zero"), 10)
    assert read_regular(secret, 7) == b"outside"
    with pytest.raises(OSError, match="larger than 6"):
        read_regular(secret, 6)


@pytest.mark.parametrize("relative", ["../outside", "/etc/passwd", "a/../../outside", "linked/passwd"])
def test_no_path_leads_out_of_the_folder(tmp_path, relative):
    root = tmp_path / "run"
    root.mkdir()
    (root / "linked").symlink_to("/etc")
    with pytest.raises(TgsError, match="leaves the folder"):
        inside(root, relative)
    assert inside(root, "profile/trace.json") == root / "profile" / "trace.json"


def test_event_files_that_are_links_fifos_or_endless_hold_no_events(tmp_path):
    events = tmp_path / "events"
    events.mkdir()
    (events / "rank00000.jsonl").symlink_to("/dev/zero")
    os.mkfifo(events / "rank00001.jsonl")
    (events / "rank00002.jsonl").mkdir()
    tail = RunTail(events)
    assert tail.poll() == []
    assert list(tail.read_all()) == []
    (tmp_path / "linked").symlink_to(events)
    assert list(RunTail(tmp_path / "linked").read_all()) == []


def test_events_after_a_long_damage_are_found(tmp_path):
    path = tmp_path / "rank00000.jsonl"
    good = b'{"type":"heartbeat","seq":%d}\n'
    path.write_bytes(good % 0 + b"x" * (9 << 20) + b"\n" + good % 1)
    assert [e.seq for events in FileTail(path).read_to_end() for e in events] == [0, 1]
    path.write_bytes(good % 0 + b"x" * (40 << 20) + b"\n" + good % 1)
    assert [e.seq for events in FileTail(path).read_to_end() for e in events] == [0, 1]


def test_a_copy_of_a_file_and_lines_of_another_rank_count_nothing(tmp_path):
    line = b'{"type":"step","step":0,"rank":0,"seq":0}\n'
    (tmp_path / "rank00000.jsonl").write_bytes(line)
    (tmp_path / "rank00000 (copy).jsonl").write_bytes(line)
    (tmp_path / "rank00001.jsonl").write_bytes(line)
    tail = RunTail(tmp_path)
    assert len(list(tail.read_all())) == 1
    assert tail.skipped == 1


PIECES = st.sampled_from(
    ["a", "×", "\\u001b", "\\n", "\\", "\t", "\n", "\x85", "\u202e", '"', "'", '"""', "'''", " "]
)
QUOTES = st.sampled_from(['"', "'", '"""', "'''"])


@given(st.text() | st.lists(PIECES).map("".join), QUOTES, QUOTES)
@example("\\u001b[2J", '"', '"')
@example("two\nlines", '"""', '"')
@example("\u202e", "'", "'")
def test_every_text_of_a_toml_file_is_harmless_whatever_way_it_is_read(text, left, right):
    document = f"{left[0]}{text}{left[0]} = 1\nname = {right}{text}{right}\n"
    try:
        plain = tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return
    assert toml_document(document.encode()) == harmless(plain)


def test_a_name_or_a_value_with_a_line_break_forges_no_line_of_an_error(tmp_path):
    for name in ("nightly-1\nerror: forged", "nightly-2\nerror: forged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(TgsError) as several:
        Store(tmp_path).find("nightly")
    outcome = tmp_path / "r" / "outcome.json"
    outcome.parent.mkdir()
    outcome.write_text(json.dumps({"status": "ok\nerror: forged", "reason": "", "exit_code": 0}))
    with pytest.raises(TgsError) as value:
        RunDir(outcome.parent).outcome()
    for error in (several.value, value.value):
        assert "forged" in error.msg
        assert "\n" not in error.msg
