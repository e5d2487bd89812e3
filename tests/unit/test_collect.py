"""Captured traces are taken in whole or not at all, and recipes are found like presets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tgsbench.errors import TgsError
from tgsbench.launch import traces as collecting
from tgsbench.launch.traces import collect
from tgsbench.presets.recipes import load_recipe
from tgsbench.schema.events import Trace
from tgsbench.store import staging
from tgsbench.training import capture

TRACES = [Trace(path="host_0000.json"), Trace(path="host_0001.json")]


@pytest.fixture
def run(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    for trace in TRACES:
        (staging / trace.path).write_text(json.dumps({"schemaVersion": 1, "traceEvents": [{"ph": "X"}]}))
    return tmp_path


def test_all_traces_arrive_compressed_under_the_plugins_names_and_staging_goes(run):
    assert collect(run, TRACES) == []
    files = sorted((run / "profile").iterdir())
    assert [f.name.split(".")[0] for f in files] == ["host_0000", "host_0001"]
    assert all(f.name.endswith(".pt.trace.json.gz") for f in files)
    assert json.loads(gzip.decompress(files[0].read_bytes()))["traceEvents"] == [{"ph": "X"}]
    assert not (run / "staging").exists()
    assert collect(run, TRACES) == []


def test_without_isal_pythons_gzip_writes_the_same(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    assert collect(run, TRACES) == []
    (first, _) = sorted((run / "profile").iterdir())
    assert json.loads(gzip.decompress(first.read_bytes()))["schemaVersion"] == 1


@pytest.mark.parametrize("damage", ["", '{"traceEvents": [', "[1, 2]", "not json"])
def test_one_damaged_trace_leaves_all_in_staging_and_says_so(run, damage):
    (run / "staging" / "host_0001.json").write_text(damage)
    problems = collect(run, TRACES)
    assert "host_0001.json is damaged" in problems[0]
    assert str(run / "staging") in problems[-1]
    assert not (run / "profile").exists()
    assert (run / "staging" / "host_0000.json").exists()


def test_a_missing_trace_is_named(run):
    (run / "staging" / "host_0000.json").unlink()
    assert "host_0000.json is missing" in collect(run, TRACES)[0]


def test_a_full_disk_is_said_and_nothing_half_done_is_left(run, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collecting, "_gzip_writer", full)
    (problem,) = collect(run, TRACES)
    assert "No space left on device" in problem
    assert not (run / "profile").exists()
    assert not (run / "profile.partial").exists()
    assert (run / "staging" / "host_0001.json").exists()


def test_a_trace_name_cannot_leave_the_staging_folder(run, tmp_path):
    (tmp_path / "secret.json").write_text('{"traceEvents": []}')
    assert "missing" in collect(run, [Trace(path="../secret.json")])[0]
    (run / "staging" / "link.json").symlink_to(tmp_path / "secret.json")
    assert "missing" in collect(run, [Trace(path="link.json")])[0]


@pytest.mark.parametrize("name", ["hotspots", "timeline", "memory", "stacks"])
def test_shipped_recipes_load(name):
    assert load_recipe(name).name == name


def test_recipes_of_the_user_are_found_and_bad_ones_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.toml").write_text("active_steps = 3\n")
    assert load_recipe("mine").active_steps == 3
    (tmp_path / "profiles" / "bad.toml").write_text("active_stepz = 3\n")
    with pytest.raises(TgsError, match="active_stepz"):
        load_recipe("bad")
    with pytest.raises(TgsError, match="nearest: hotspots"):
        load_recipe("hotspot")


def test_an_export_that_a_full_disk_cut_short_is_taken_away_and_said(run, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))

    def kineto(path):  # it raises nothing and leaves half a file
        Path(f"{path}.tmp").write_bytes(b"x" * (3 << 20))

    warning = capture._written(run / "staging" / "host_0002.json", kineto, [5], 0.0)
    assert warning.code == "trace_lost"
    assert "host_0002.json could not be written: the disk is full; the 3.0 MiB" in warning.msg
    assert "--output DIR" in warning.hint
    assert sorted(path.name for path in (run / "staging").iterdir()) == [t.path for t in TRACES]


def test_an_export_that_fails_otherwise_says_why(run):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    warning = capture._written(run / "staging" / "host_0002.json", refused, [5], 0.0)
    assert "Permission denied" in warning.msg


def test_what_killed_ranks_left_half_written_goes(run):
    (run / "staging" / ".host_0001.json.tmp").write_text("{")
    (run / "staging" / ".host_0003.memory.pickle").write_text("")
    staging.discard_partials(run / "staging")
    assert sorted(path.name for path in (run / "staging").iterdir()) == [t.path for t in TRACES]
    staging.discard_partials(run / "nowhere")
