"""Runs that repeat one measurement: one row with the spread between runs, which gates and comparisons use."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from click.testing import CliRunner

from tests.unit.stored import FAST, a_preset, a_result, store_run
from tgsbench.cli import run as run_command
from tgsbench.cli.compare import compare
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import repeats as repeating
from tgsbench.metrics import ratio, spread
from tgsbench.metrics.result import oddities
from tgsbench.results import repeats
from tgsbench.results.row_specs import RowFinder
from tgsbench.store.run_dir import Store


def store_group(root, group, medians, disturbed=(), **changes):
    for index, median in enumerate(medians, start=1):
        samples = [median * (1 + step / 1e5) for step in range(-3, 4)]
        load = ["4.0 cores"] if index in disturbed else []
        run = store_run(
            root, f"{group}-{index}", samples=samples, disturbances=load, created_unix=index, **changes
        )
        run.change_manifest(lambda manifest: setattr(manifest, "repeat_of", group))


def ask(root, *words):
    done = CliRunner().invoke(compare, [*words, "--output", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_two_groups_of_one_configuration_differ_by_no_more_than_their_runs(tmp_path):
    store_group(tmp_path, "old", [2300.0, 2000.0, 2600.0])
    store_group(tmp_path, "new", [1600.0, 2350.0, 2250.0])
    alone = ask(tmp_path, "new-1", "--baseline", "old-1", "--fail-on", "worse:5%")
    assert alone.exit_code == ExitCode.WORSE, "steps of one run hardly vary"
    assert "spread between runs is not known" in alone.stdout
    groups = ask(tmp_path, "new", "--baseline", "old", "--fail-on", "worse:5%")
    assert groups.exit_code == ExitCode.OK
    assert "not significant" in groups.stdout and "spread between runs is not known" not in groups.stdout


def test_a_difference_that_every_run_shows_is_found(tmp_path):
    store_group(tmp_path, "old", [2300.0, 2310.0, 2290.0, 2305.0])
    store_group(tmp_path, "new", [2000.0, 2010.0, 1990.0, 2005.0])
    done = ask(tmp_path, "new", "--baseline", "old", "--fail-on", "worse:5%", "--json")
    assert done.exit_code == ExitCode.WORSE
    (found,) = json.loads(done.stdout)["comparisons"]
    low, high = found["ratio"]["ci95"]
    assert low < 2001.2 / 2301.2 < high
    assert found["a"]["repeats"] == 4


def test_latest_of_a_group_is_the_group_and_a_run_by_its_name_is_that_run(tmp_path):
    store_group(tmp_path, "g", [10.0, 11.0, 12.1])
    finder = RowFinder(tmp_path)
    assert [row.repeats for row in (*finder.resolve("latest"), *finder.resolve("g"))] == [3, 3]
    assert finder.resolve("g")[0].tgs == pytest.approx(11.0)
    assert finder.resolve("g-2")[0].repeats == 1


def test_disturbed_runs_are_left_out_where_enough_others_remain(tmp_path):
    store_group(tmp_path, "g", [10.0, 10.1, 10.2, 5.0], disturbed=[4])
    row = repeats.group_row(Store(tmp_path), "g")
    assert row.repeats == 3 and row.disturbances == [] and row.tgs > 9
    assert row.remarks == ["1 run of a disturbed machine left out"]
    store_group(tmp_path, "few", [10.0, 10.1, 5.0], disturbed=[3])
    row = repeats.group_row(Store(tmp_path), "few")
    assert row.repeats == 3 and row.disturbances == ["few-3: 4.0 cores"]


def test_a_run_that_failed_has_no_part_in_the_figure(tmp_path):
    preset = a_preset()
    found = [a_result(preset, f"g-{i}", samples=[100.0 + i] * 6) for i in range(2)]
    found.append(a_result(preset, "g-3", samples=[], status="oom"))
    row = repeats.row_of("g", found)
    assert (row.repeats, row.status, row.remarks) == (2, "ok", ["1 run of 3 failed"])


@pytest.mark.parametrize("margin", ["worse", "worse:5%"])
def test_a_disturbed_row_decides_no_gate(tmp_path, margin):
    store_run(tmp_path, "fast")
    store_run(tmp_path, "slow", samples=[x / 2 for x in FAST], disturbances=["other processes used 4 cores"])
    store_run(tmp_path, "worse", samples=[x / 2 for x in FAST])
    done = ask(tmp_path, "slow", "--baseline", "fast", "--fail-on", margin)
    assert done.exit_code == ExitCode.DISTURBED
    assert "slow" in done.stderr and "nothing is decided" in done.stderr
    assert ask(tmp_path, "fast", "--baseline", "slow", "--fail-on", margin).exit_code == ExitCode.DISTURBED
    assert ask(tmp_path, "slow", "--baseline", "fast").exit_code == ExitCode.OK, "no gate was asked for"
    both = ask(tmp_path, "slow", "worse", "--baseline", "fast", "--fail-on", margin)
    assert both.exit_code == ExitCode.WORSE, "an undisturbed row proves it"


def test_welchs_interval_of_two_groups():
    a, b = [100.0, 104.0, 96.0], [50.0, 51.0, 49.0]
    found = ratio.of_runs(a, b)
    error = math.sqrt(sum(statistics.variance(map(math.log, group)) / 3 for group in (a, b)))
    # 2.94 degrees of freedom, taken as 2: Student's t of 97.5 % is 4.303
    assert found.value == pytest.approx(statistics.geometric_mean(a) / statistics.geometric_mean(b))
    assert found.ci95 == pytest.approx([found.value * math.exp(sign * 4.303 * error) for sign in (-1, 1)])
    assert ratio.of_runs([2.0, 2.0], [1.0, 1.0]).ci95 == (2.0, 2.0)


def test_an_outlier_and_a_trend_are_told():
    quiet = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01]
    assert oddities(quiet, "step") == []
    (text,) = oddities([*quiet, 2.0], "step")
    assert "1 of 9 measured steps" in text and "step 9 took 2.00 x" in text
    assert "warm-up" in oddities([2.0, *quiet], "step")[0]
    (slower,) = oddities([1 + i / 50 for i in range(8)], "run")
    assert "runs get slower" in slower
    (faster,) = oddities([2 - i / 50 for i in range(8)], "step")
    assert "faster" in faster and "--warmup" in faster
    assert oddities([1.0, 2.0, 3.0], "step") == [], "three figures show nothing"
    assert spread.trend([1.0] * 8) == (0.0, 1.0)


def test_each_run_is_made_anew_and_says_which_group_it_belongs_to(tmp_path):
    preset, seen = a_preset("tiny_cpu"), []

    def supervise(run, index):
        seen.append((run.run_id, index, run.manifest().repeat_of))
        return a_result(preset, run.run_id, status="ok" if index < 3 else "cancelled")

    found = repeating.run_all(preset, tmp_path, "g", 5, supervise)
    assert seen == [("g-1", 1, "g"), ("g-2", 2, "g"), ("g-3", 3, "g")], "a stop ends the group"
    assert len(found) == 3
    with pytest.raises(TgsError, match="g-1 already exists"):
        repeating.free_group(tmp_path, preset, "g")


@pytest.mark.parametrize("more", [["--emulate-rank"], ["--nodes", "a,b"]])
def test_what_has_no_repeats_is_refused(tmp_path, more):
    words = ["--preset", "tiny_cpu", "--repeats", "3", "--output", str(tmp_path), *more]
    done = CliRunner().invoke(run_command.run, words)
    assert isinstance(done.exception, TgsError) and "--repeats" in done.exception.msg


def test_a_group_is_shown_and_exported_by_its_name(tmp_path):
    from tgsbench.cli.export import export
    from tgsbench.cli.show import show

    store_group(tmp_path, "g", [10.0, 11.0, 12.1])
    where = ["--output", str(tmp_path)]
    lines = CliRunner().invoke(show, ["g", *where]).output.splitlines()
    assert lines[0].endswith("3, g-1 to g-3") and any("of 3 runs" in line for line in lines)
    document = json.loads(CliRunner().invoke(show, ["g", "--json", *where]).output)
    assert document["row"]["repeats"] == 3
    assert [run["run_id"] for run in document["runs"]] == ["g-1", "g-2", "g-3"]
    target = tmp_path / "x.jsonl"
    done = CliRunner().invoke(export, ["g", "--format", "jsonl", "--to", str(target), *where])
    assert "3 runs" in done.output, done.exception
    assert len(target.read_text().splitlines()) == 3


def test_looking_up_many_groups_walks_the_names_once(tmp_path):
    class Walked(list):
        times = 0

        def __iter__(self):
            Walked.times += 1
            return super().__iter__()

    for group in ("a", "b-1"):
        store_group(tmp_path, group, [10.0, 11.0])
    store = Store(tmp_path)
    store.names = Walked(store.names)
    found = {group: [run.run_id for run in repeats.members(store, group)] for group in ("a", "b", "b-1")}
    assert found == {"a": ["a-1", "a-2"], "b": [], "b-1": ["b-1-1", "b-1-2"]}
    assert Walked.times == 1
