"""The cache is never half-written, built once by processes that race, and optional."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tgsbench.presets.resolve import resolve
from tgsbench.system.user_cache import user_cache
from tgsbench.workload import cache, prepare

KEY = {"corpus": "test"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def build() -> dict[str, np.ndarray]:
    return {"a": np.arange(1000), "b": np.arange(5)}


def load(make=build) -> cache.Cached:
    return cache.load_or_build("packs", KEY, ("a", "b"), make)


def test_second_load_is_a_hit_mapped_from_disk():
    assert not load().hit
    again = load(None)
    assert again.hit and isinstance(again.arrays["a"], np.memmap)
    assert again.arrays["a"].tolist() == list(range(1000))


@pytest.mark.parametrize("damage", ["truncate", "remove", "garbage"])
def test_damaged_entry_is_built_again(damage):
    load()
    path = cache.entry_path("packs", KEY) / "a.npy"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:300] if damage == "truncate" else b"not an array")
    assert not load().hit
    assert load(None).hit


def test_a_build_that_fails_leaves_nothing():
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        load(fail)
    assert not cache.entry_path("packs", KEY).exists()
    assert not load().hit


def test_full_disk_costs_the_entry_not_the_run(monkeypatch):
    def full(*_args, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    kept = load()
    assert "No space left" in kept.problem
    assert kept.arrays["b"].tolist() == [0, 1, 2, 3, 4]
    assert [p.name for p in user_cache().glob("packs/*") if p.is_dir()] == []


def test_unwritable_folder_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    packs = prepare(resolve("tiny_cpu", ["workload.corpus=lengths"]).preset, 4, lambda _line: None)
    assert [warning.code for warning in packs.warnings] == ["cache_unwritable"]
    assert packs.pack(0).num_tokens == 1024


def test_entries_unused_for_longest_are_dropped(monkeypatch):
    monkeypatch.setattr(cache, "_MAX_ENTRIES", 3)
    for n in range(6):
        cache.load_or_build("packs", {"n": n}, ("a", "b"), build)
    assert len([p for p in user_cache().glob("packs/*") if p.is_dir()]) == 3
    assert cache.load_or_build("packs", {"n": 5}, ("a", "b"), build).hit


RACER = """
import os, sys, time
import numpy as np
from tgsbench.workload import cache
def build():
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    return {"a": np.arange(100_000)}
print("ready", flush=True)
sys.stdin.readline()
kept = cache.load_or_build("packs", {"race": 1}, ("a",), build)
assert int(kept.arrays["a"].sum()) == 4999950000
"""


def test_processes_that_race_build_once(tmp_path):
    log = tmp_path / "log"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(log)],
            env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.wait(60) for racer in racers] == [0, 0, 0]
    assert log.read_text() == "built\n"
