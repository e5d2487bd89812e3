"""The folder of runs as lists, `latest` and prune see it: by time, and past whatever one run holds."""

from __future__ import annotations

import json
import os
import time

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench.cli.main import cli
from tgsbench.launch import detached
from tgsbench.metrics.failure import root_cause
from tgsbench.metrics.observe import RunTotals
from tgsbench.results import index, prune, results, row_specs
from tgsbench.schema.run import Outcome
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir, created_unix, list_runs

DAY = 86_400.0


def names(root):
    return [run.run_id for run in list_runs(root)]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.setenv("TGSBENCH_RUNS", str(tmp_path))
    return lambda *words: CliRunner().invoke(cli, list(words))


def test_newest_first_goes_by_time_and_not_by_name(tmp_path, ask):
    store_run(tmp_path, "zebra", created_unix=1000.0)
    store_run(tmp_path, "20260101T000000-tiny_cpu-ab12", created_unix=2000.0)
    store_run(tmp_path, "apple", created_unix=3000.0)
    wanted = ["apple", "20260101T000000-tiny_cpu-ab12", "zebra"]
    assert names(tmp_path) == wanted
    assert run_dir.find(tmp_path, "latest").run_id == "apple"
    assert [s.run_id for s in index.list_summaries(tmp_path)] == wanted
    assert [s.run_id for s in index.list_summaries(tmp_path)] == wanted, "from the cache"
    assert [row["run_id"] for row in json.loads(ask("runs", "--json").output)] == wanted
    assert json.loads(ask("show", "--json").output)["run_id"] == "apple"


@pytest.mark.parametrize("content", ["", "{", '{"created_unix": "x"}', '{"created_unix": 1e300}', "{}"])
def test_without_a_readable_time_the_folders_name_tells_and_then_the_file(tmp_path, content):
    stamped = store_run(tmp_path, "20260102T030405-x-ab12")
    named = store_run(tmp_path, "named")
    for run in (stamped, named):
        (run.path / "run.json").write_text(content)
        os.utime(run.path / "run.json", (5000.0, 5000.0))
    assert created_unix(stamped) == 1767323045.0
    assert created_unix(named) == 5000.0
    assert created_unix(store_run(tmp_path, "20269999T999999-x", created_unix=7.0)) == 7.0


def test_a_run_that_cannot_be_read_is_as_old_as_its_folder_says(tmp_path):
    now = time.time()
    for name, age in (("young", 0.0), ("old", 40 * DAY)):
        for what, text in (("newer", '{"schema_version": 99}'), ("hurt", "{")):
            run = store_run(tmp_path, f"{name}-{what}", created_unix=now - age)
            (run.path / "result.json").write_text(text)
    run = store_run(tmp_path, "no-manifest")
    (run.path / "run.json").write_text("{")
    found = index.list_summaries(tmp_path)
    assert {s.status for s in found} == {"damaged"}
    chosen = prune.choose(found, keep=None, older_than_s=30 * DAY, statuses=(), tagged=False, now_unix=now)
    assert sorted(s.run_id for s in chosen) == ["old-hurt", "old-newer"]


def test_an_exit_by_a_signal_without_a_name_breaks_no_list(tmp_path, ask):
    run = store_run(tmp_path, "odd")
    store_run(tmp_path, "sound")
    (run.path / "result.json").unlink()
    run.write("outcome.json", Outcome(exit_code=-40))
    assert {s.run_id: s.status for s in index.list_summaries(tmp_path)} == {"odd": "crashed", "sound": "ok"}
    assert "killed by signal 40" in ask("runs").output
    assert "killed by signal 40" in ask("show", "odd").output
    failure = root_cause(RunTotals(1), Outcome(exit_code=-9), None, 1)
    assert "SIGKILL" in failure.reason


def test_a_list_survives_any_exception_of_one_run(tmp_path, monkeypatch, ask):
    odd = store_run(tmp_path, "odd")
    store_run(tmp_path, "sound")
    load = RunDir.result
    monkeypatch.setattr(RunDir, "result", lambda self: 1 / 0 if self.run_id == "odd" else load(self))
    statuses = {s.run_id: s.status for s in index.list_summaries(tmp_path)}
    assert statuses == {"odd": "damaged", "sound": "ok"}
    assert "ZeroDivisionError" in ask("runs").output
    glances = {s.run_id: s.status for s in index.iter_summaries(tmp_path, index.glance)}
    assert glances == statuses, "the list of the terminal UI"
    assert "ZeroDivisionError" in results.load_or_describe(odd).reason


def test_prune_goes_on_past_a_run_that_stays(tmp_path, ask):
    for i in range(4):
        store_run(tmp_path, f"r{i}", created_unix=float(i))
    (tmp_path / "r1" / "run.json").write_text("{")
    os.utime(tmp_path / "r1" / "run.json", (1.0, 1.0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r2").rename(tmp_path / "elsewhere" / "r2")
    (tmp_path / "r2").symlink_to(tmp_path / "elsewhere" / "r2")
    done = ask("runs", "prune", "--older-than", "1d", "--yes")
    assert done.exception.exit_code == 7
    assert "1 run of 4 could not be deleted" in done.exception.msg
    assert "kept r2" in done.output
    assert "no run folder" in done.output
    assert (tmp_path / "elsewhere" / "r2" / "result.json").exists()
    assert [name for name in ("r0", "r1", "r3") if (tmp_path / name).exists()] == []


def test_a_damaged_run_that_somebody_holds_is_not_deleted(tmp_path):
    run = RunDir(tmp_path / "held")
    run.path.mkdir()
    (run.path / "run.json").write_text("{")
    with run_dir.claimed(run), pytest.raises(run_dir.TgsError, match="still running"):
        detached.discard(run)
    assert not run.is_claimed()
    run.events_dir.mkdir()
    events = run.events_dir / "rank00000.jsonl"
    events.touch()
    with pytest.raises(run_dir.TgsError, match="may be running: its run"):
        detached.discard(run)
    os.utime(events, (1.0, 1.0))
    detached.discard(run)
    assert not run.path.exists()


@pytest.fixture
def scans(monkeypatch, tmp_path):
    """How often the folder of runs is listed."""
    found = []
    scan = os.scandir

    def counted(path="."):
        if path == tmp_path:
            found.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", counted)
    return found


def test_a_run_is_found_by_its_exact_name_without_a_listing(tmp_path, scans, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    for name in ("r0", "r1", "r1-longer"):
        store_run(tmp_path, name)
    assert run_dir.find(tmp_path, "r1").run_id == "r1"
    assert not scans
    assert run_dir.find(tmp_path, "longer").run_id == "r1-longer"
    assert len(scans) == 1
    for odd in ("", ".", ".."):
        with pytest.raises(run_dir.TgsError):
            run_dir.find(tmp_path, odd)


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_command_lists_the_store_once_however_many_runs_it_names(tmp_path, scans, ask, command):
    for i in range(6):
        store_run(tmp_path, f"run{i}", created_unix=float(i), preset=a_preset("llama2_7b_32k"))
    done = ask(command, *(f"n{i}" for i in range(6)), "latest")
    assert "run5" in done.output
    assert len(scans) == 1
    assert row_specs.resolve(tmp_path, "n3")[0].label == "run3"


LONG = ["1" + "0" * 30, "1" + "0" * 5000, "-1" + "0" * 400, "1e999"]
ABSURD = [
    *((name, field, value) for name in ("run.json", "result.json") for field in ("world_size", "created_unix")
      for value in (*LONG, "1e300")),
    *((name, "world_size", "1000000000") for name in ("run.json", "result.json")),
    *(("result.json", "seq_len", value) for value in LONG),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field", "value"), ABSURD, ids=lambda text: text if len(text) < 20 else f"{len(text)} digits"
)
def test_a_number_that_no_run_can_have_is_refused_before_anything_is_made_of_it(
    tmp_path, ask, name, field, value
):
    run = store_run(tmp_path, "odd")
    store_run(tmp_path, "sound", created_unix=5.0)
    path = run.path / name
    document = json.loads(path.read_text()) | {field: 12345678}
    path.write_text(json.dumps(document).replace("12345678", value))
    if name == "run.json":
        (run.path / "result.json").unlink()
    assert {s.run_id: s.status for s in index.list_summaries(tmp_path)} == {"odd": "damaged", "sound": "ok"}
    assert ask("runs").exit_code == 0
    assert ask("show", "odd").exception.exit_code == 7
