"""The list of runs: a cache that may be deleted, tags, what prune takes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench.cli.runs import runs
from tgsbench.errors import TgsError
from tgsbench.presets.work import work_digest
from tgsbench.results import index, prune, results, run_columns
from tgsbench.schema.run import Failure
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.system.lifetime import process_identity
from tgsbench.tui import preset_rows, run_rows


def listed(root: Path) -> list[str]:
    return [summary.run_id for summary in index.list_summaries(root)]


def ask(*words: str, root: Path):
    done = CliRunner().invoke(runs, [*words, "--output", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_run_of_another_year_says_its_year():
    now = datetime.now()
    shown = [
        run_columns.COLUMNS["when"].text(
            index.Summary(run_id="r", status="ok", created_unix=when.timestamp())
        )
        for when in (now.replace(month=3, day=4, hour=5, minute=6), datetime(2019, 12, 31, 23, 59))
    ]
    assert shown == ["03-04 05:06", "2019-12-31"]


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
    assert summary.reason.startswith("result.json: "), "the row names the folder"


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


def test_prune_says_that_nothing_meets_its_conditions(tmp_path):
    some_runs(tmp_path)
    assert "nothing to delete" in ask("prune", "--status", "stalled", "--yes", root=tmp_path)


def test_a_copied_run_has_the_name_of_its_folder(tmp_path):
    store_run(tmp_path, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert results.load_result(RunDir(tmp_path / "b")).run_id == "b"
    (tmp_path / "b" / "result.json").unlink()
    assert results.load_result(RunDir(tmp_path / "b")).run_id == "b"


def test_prune_without_a_condition_is_refused(tmp_path):
    with pytest.raises(TgsError, match="condition"):
        ask("prune", "--yes", root=tmp_path)


def test_a_filter_that_lets_nothing_through_does_not_call_the_folder_empty(tmp_path):
    some_runs(tmp_path)
    assert ask("--tag", "nightly", root=tmp_path) == f"no run in {tmp_path} with tag nightly\n"
    assert "start one" in ask(root=tmp_path / "empty")


def test_a_run_that_cannot_be_read_at_all_is_one_row(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        store_run(tmp_path, name)
    read = index.summarize

    def fails(run):
        if run.run_id == "b":
            raise ValueError("-40 is not a valid Signals")
        return read(run)

    monkeypatch.setattr(index, "summarize", fails)
    found = {summary.run_id: summary for summary in index.list_summaries(tmp_path)}
    assert [found[name].status for name in "abc"] == ["ok", "damaged", "ok"]
    assert found["b"].reason == "ValueError: -40 is not a valid Signals"
    monkeypatch.setattr(index, "summarize", read)
    assert [summary.status for summary in index.list_summaries(tmp_path)] == ["ok"] * 3


def test_a_folder_whose_name_is_no_text_leaves_the_others_and_the_cache(tmp_path):
    store_run(tmp_path, "a")
    odd = store_run(tmp_path, "b").path
    os.rename(odd, os.fsencode(tmp_path) + b"/b\xff")
    assert listed(tmp_path) == ["b\udcff", "a"]
    assert len(json.loads((tmp_path / ".index.json").read_text())["entries"]) == 1


def test_what_was_read_is_kept_when_the_caller_stops_early(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        store_run(tmp_path, name)
    reader = index.iter_summaries(tmp_path, index.summarize)
    assert [next(reader).run_id, next(reader).run_id] == ["c", "b"]
    reader.close()
    read = []
    reader = index.iter_summaries(tmp_path, lambda run: read.append(run) or index.summarize(run))
    assert len(list(reader)) == 3
    assert [run.run_id for run in read] == ["a"]


def test_a_list_that_changed_nothing_writes_nothing(tmp_path, monkeypatch):
    store_run(tmp_path, "a")
    (store_run(tmp_path, "b").path / "result.json").unlink()
    listed(tmp_path)
    monkeypatch.setattr(index, "write_atomic", lambda path, data: pytest.fail("written"))
    assert listed(tmp_path) == ["b", "a"]


def test_a_glance_at_a_run_that_goes_on_reads_no_events(tmp_path, monkeypatch):
    run = store_run(tmp_path, "a")
    (run.path / "result.json").unlink()

    def sign(manifest):
        manifest.host, manifest.supervisor_pid = os.uname().nodename, os.getpid()
        manifest.supervisor_identity = process_identity(os.getpid())

    run.change_manifest(sign)
    monkeypatch.setattr(RunDir, "events", lambda self: pytest.fail("events read"))
    (found,) = index.iter_summaries(tmp_path, index.glance)
    assert (found.status, found.preset, found.world_size, found.tgs) == ("running", "llama2_7b_32k", 8, None)


def test_the_best_run_of_each_preset_is_found_without_reading_a_result_again(tmp_path, monkeypatch):
    store_run(tmp_path, "slow", samples=[2000.0] * 7)
    store_run(tmp_path, "fast", samples=[2500.0] * 7)
    store_run(tmp_path, "made-up", samples=[9000.0] * 7)
    ask("tag", "made-up", "simulated", root=tmp_path)
    store_run(tmp_path, "failed", samples=[9000.0] * 7, status="oom")
    store_run(tmp_path, "going-on", samples=[9000.0] * 7)
    (tmp_path / "going-on" / "result.json").unlink()

    def best():
        found = preset_rows.best_results(index.iter_summaries(tmp_path, index.if_finished))
        return {work: (run.run_id, run.tgs) for work, run in found.items()}

    assert best() == {work_digest(a_preset()): ("fast", 2500.0)}
    monkeypatch.setattr(index, "summarize", lambda run: pytest.fail("read again"))
    assert best() == {work_digest(a_preset()): ("fast", 2500.0)}


def test_a_column_added_to_the_table_is_in_both_lists(tmp_path, monkeypatch):
    store_run(tmp_path, "a")
    pack = run_columns.RunColumn("packs", lambda s: 7 * s.sp, "{} packs".format, width=12, right=True)
    monkeypatch.setitem(run_columns.COLUMNS, "packs", pack)
    monkeypatch.setattr(run_columns, "TABLE", ("run", "packs", "why"))
    monkeypatch.setattr(run_columns, "LIST", ("packs", *run_columns.LIST))
    (summary,) = index.list_summaries(tmp_path)
    shown = f"{7 * summary.sp} packs"
    assert ask(root=tmp_path) == f"run{'packs'.rjust(2 + len(shown))}  why\na    {shown}\n"
    assert ("packs", "packs", 12) in run_rows.list_columns()
    [(key, cells)] = run_rows.table_rows([run_rows.run_row(summary)], [])
    assert run_rows.name_of(key) == "a"
    assert cells[1].plain == shown.rjust(12)


def test_the_table_of_runs_prints_as_ever(tmp_path):
    store_run(tmp_path, "one", status="oom", failure=Failure(kind="oom", reason="out\nof  memory"))
    store_run(tmp_path, "two", rehearsal_of="llama2_70b_1M", samples=[])
    ask("tag", "two", "v1", "good", root=tmp_path)
    assert ask(root=tmp_path).splitlines() == [
        "run  when  status  preset                     engine    TGS  n  tags     why",
        "two        ok      llama2_7b_32k (rehearsal)  fsdp2       -  0  v1,good  "
        "rehearsal: compare with nothing",
        "one        oom     llama2_7b_32k              fsdp2   2,302  7           out of memory",
    ]


def test_a_long_reason_is_short_in_the_table_and_a_changed_preset_is_marked(tmp_path):
    failure = Failure(kind="crashed", reason="RuntimeError: " + "very long words " * 20)
    store_run(tmp_path, "one", status="crashed", failure=failure, changed=["workload.seq_len=8192"])
    store_run(tmp_path, "two", changed=["measure.steps=3"], created_unix=1.0)
    two, one = ask(root=tmp_path).splitlines()[1:]
    assert "llama2_7b_32k*" in one and one.endswith("…") and len(one) < 130
    assert "llama2_7b_32k " in two, "more steps are no other work"


def test_runs_are_chosen_by_what_they_are_and_sorted_by_any_column(tmp_path):
    store_run(tmp_path, "slow", created_unix=3.0, samples=[10.0] * 6)
    store_run(tmp_path, "fast", created_unix=1.0, samples=[30.0] * 6)
    store_run(tmp_path, "none", created_unix=2.0, samples=[], status="oom")
    other = a_preset("tiny_cpu", "engine.name=deepspeed")
    store_run(tmp_path, "tiny", other, created_unix=4.0, samples=[20.0])

    def names(*words):
        return [line.split()[0] for line in ask(*words, root=tmp_path).splitlines()[1:]]

    assert names() == ["tiny", "slow", "none", "fast"]
    assert names("--sort", "tgs") == ["fast", "tiny", "slow", "none"]
    assert names("--sort", "run") == ["fast", "none", "slow", "tiny"]
    assert names("--sort", "tgs", "--limit", "1") == ["fast"]
    assert names("--preset", "LLAMA2") == ["slow", "none", "fast"]
    assert names("--engine", "deepspeed") == ["tiny"]
    assert names("list", "--status", "oom") == ["none"]
    assert names("--newer-than", "1d") == [], "they are of 1970"
    with pytest.raises(TgsError, match="no column called 'speed'") as raised:
        names("--sort", "speed")
    assert "tgs, run, status" in raised.value.hint
