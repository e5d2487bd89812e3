"""The list of runs: a cache that may be deleted, tags, what prune takes."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench.cli.runs import runs
from tgsbench.errors import TgsError
from tgsbench.results import index, prune
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir


def listed(root: Path) -> list[str]:
    return [summary.run_id for summary in index.list_summaries(root)]


def ask(*words: str, root: Path):
    done = CliRunner().invoke(runs, [*words, "--output", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_cache_can_be_deleted_at_any_time(tmp_path):
    for name in ("a", "b"):
        store_run(tmp_path, name)
    first = index.list_summaries(tmp_path)
    (tmp_path / ".index.json").unlink()
    assert index.list_summaries(tmp_path) == first


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"version": 99, "entries": []}', b"\xff\xfe"])
def test_a_damaged_cache_is_built_anew(tmp_path, content):
    store_run(tmp_path, "a")
    (tmp_path / ".index.json").write_bytes(content)
    assert listed(tmp_path) == ["a"]


def test_a_second_listing_reads_no_result(tmp_path, monkeypatch):
    store_run(tmp_path, "a")
    first = index.list_summaries(tmp_path)
    monkeypatch.setattr(index, "summarize", lambda run: pytest.fail("read again"))
    assert index.list_summaries(tmp_path) == first


def test_a_result_that_changed_is_read_again(tmp_path):
    run = store_run(tmp_path, "a")
    index.list_summaries(tmp_path)
    result = run.result()
    result.status = "invalid"
    run.write("result.json", result)
    assert index.list_summaries(tmp_path)[0].status == "invalid"


def test_a_run_that_is_gone_leaves_the_list(tmp_path):
    store_run(tmp_path, "a")
    store_run(tmp_path, "b")
    assert listed(tmp_path) == ["b", "a"]
    (tmp_path / "a").rename(tmp_path.parent / "elsewhere")
    assert listed(tmp_path) == ["b"]


def test_a_folder_that_takes_no_cache_is_listed_anyway(tmp_path, monkeypatch):
    store_run(tmp_path, "a")

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index, "write_atomic", full)
    assert listed(tmp_path) == ["a"]


def test_a_damaged_run_is_listed_with_the_reason(tmp_path):
    run = store_run(tmp_path, "a")
    (run.path / "result.json").write_text("{")
    summary = index.list_summaries(tmp_path)[0]
    assert summary.status == "damaged"
    assert summary.reason


def test_tags_are_added_and_removed_and_select_runs(tmp_path):
    store_run(tmp_path, "a")
    store_run(tmp_path, "b")
    assert ask("tag", "a", "good", "v1", root=tmp_path) == "a: good, v1\n"
    assert ask("tag", "a", "^v1", root=tmp_path) == "a: good\n"
    rows = json.loads(ask("--json", "--tag", "good", root=tmp_path))
    assert [row["run_id"] for row in rows] == ["a"]


def test_a_tag_cannot_hold_anything(tmp_path):
    store_run(tmp_path, "a")
    with pytest.raises(TgsError, match="may hold"):
        ask("tag", "a", "x\x1b[2J", root=tmp_path)


def add_tags(path: Path, prefix: str) -> None:
    for i in range(40):
        RunDir(path).change_manifest(lambda m, tag=f"{prefix}{i}": m.tags.append(tag))


def test_two_processes_that_tag_one_run_at_once_lose_nothing(tmp_path):
    run = store_run(tmp_path, "a")
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=add_tags, args=(run.path, prefix)) for prefix in "xy"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert len(set(run.manifest().tags)) == 80


def make_runs(root: Path, count: int) -> None:
    for _ in range(count):
        run = run_dir.create(root, a_preset("tiny_cpu"))
        (run.path / "run.json").write_text("{}")
        index.list_summaries(root)


def test_two_processes_that_make_and_list_runs_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=make_runs, args=(tmp_path, 30)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(listed(tmp_path)) == 60
    assert len(json.loads((tmp_path / ".index.json").read_text())["entries"]) <= 60
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def some_runs(root: Path) -> None:
    for i, status in enumerate(["ok", "crashed", "ok", "oom"]):
        store_run(root, f"r{i}", created_unix=1000.0 * i, status=status)


def choose(root: Path, **conditions) -> list[str]:
    base = {"keep": None, "older_than_s": None, "statuses": (), "tagged": False, "now_unix": 4000.0}
    found = index.list_summaries(root)
    return sorted(s.run_id for s in prune.choose(found, **{**base, **conditions}))


def test_prune_spares_the_newest_the_tagged_and_other_statuses(tmp_path):
    some_runs(tmp_path)
    assert choose(tmp_path) == []
    assert choose(tmp_path, keep=2) == ["r0", "r1"]
    assert choose(tmp_path, older_than_s=2500.0) == ["r0", "r1"]
    assert choose(tmp_path, statuses=("crashed", "oom")) == ["r1", "r3"]
    assert choose(tmp_path, keep=0, statuses=("ok",), older_than_s=3500.0) == ["r0"]
    ask("tag", "r0", "keep", root=tmp_path)
    assert choose(tmp_path, keep=2) == ["r1"]
    assert choose(tmp_path, keep=2, tagged=True) == ["r0", "r1"]


def test_prune_deletes_only_with_yes(tmp_path):
    some_runs(tmp_path)
    assert "would delete  r1" in ask("prune", "--status", "crashed", root=tmp_path)
    assert (tmp_path / "r1").exists()
    assert "deleted  r1" in ask("prune", "--status", "crashed", "--yes", root=tmp_path)
    assert not (tmp_path / "r1").exists()
    assert (tmp_path / "r0").exists()


def test_prune_without_a_condition_is_refused(tmp_path):
    with pytest.raises(TgsError, match="condition"):
        ask("prune", "--yes", root=tmp_path)


def test_a_filter_that_lets_nothing_through_does_not_call_the_folder_empty(tmp_path):
    some_runs(tmp_path)
    assert ask("--tag", "nightly", root=tmp_path) == f"no run in {tmp_path} with tag nightly\n"
    assert "start one" in ask(root=tmp_path / "empty")
