"""Grids of presets: the spec, what is skipped, resuming, and the search for the longest sequence."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_forecast, a_preset, a_result, store_run
from tgsbench.cli.sweep import sweep as command
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import max_seq_len, sweep
from tgsbench.report.grid import GridRow, grid_lines
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.run import Failure

SPEC = """
preset = "tiny_cpu"
[set]
"measure.steps" = 2
[grid]
sp = [1, 2, 3]
checkpointing = ["full", "none"]
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(SPEC)
    return path


def a_runner(log, status="ok"):
    def run(preset, root, name, tag, say):
        log.append(name)
        failure = None if status == "ok" else Failure(kind=status, reason="why")
        samples = [100.0] if status == "ok" else []
        store_run(root, name, preset, samples=samples, status=status, failure=failure)
        return a_result(preset, name, samples=samples, status=status, failure=failure)

    return run


def test_every_cell_is_a_point_and_what_breaks_a_rule_is_skipped_with_the_reason(spec):
    found = sweep.points(sweep.read_spec(spec))
    assert len(found) == 6
    skipped = [p for p in found if p.skipped]
    assert [p.values["parallel.sp"] for p in skipped] == ["3", "3"]
    assert "not divisible by 3" in skipped[0].skipped
    assert found[-2:] == skipped


def test_fixed_values_reach_every_point(spec):
    found = sweep.points(sweep.read_spec(spec))
    assert {p.preset.measure.steps for p in found if p.preset} == {2}


def test_a_point_is_named_in_the_words_of_its_spec(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'preset = "tiny_cpu"\ngrid = { engine = ["deepspeed"], "engine.zero_stage" = [3], length = ["1k"] }'
    )
    (point,) = sweep.points(sweep.read_spec(path))
    assert point.label == "engine=deepspeed zero_stage=3 seq_len=1k"


def test_what_the_planner_says_cannot_fit_is_skipped(spec, monkeypatch):
    def forecast(preset, gpu=""):
        verdict = "out of memory" if preset.parallel.sp == 1 else "fits"
        tgs = TgsRange(estimate=5.0, low=4.0, high=6.0)
        return a_forecast(verdict=verdict, reason="logits", tgs=tgs, step_s=1.0)

    monkeypatch.setattr(sweep, "forecast_preset", forecast)
    found = sweep.points(sweep.read_spec(spec))
    assert {p.skipped for p in found if p.values["parallel.sp"] == "1"} == {"planned out of memory: logits"}


def test_the_fastest_forecast_runs_first(spec, monkeypatch):
    def forecast(preset, gpu=""):
        tgs = 10.0 * preset.parallel.sp + (preset.training.checkpointing == "none")
        return a_forecast(tgs=TgsRange(estimate=tgs, low=tgs, high=tgs), step_s=1.0)

    monkeypatch.setattr(sweep, "forecast_preset", forecast)
    order = [p.forecast_tgs for p in sweep.points(sweep.read_spec(spec)) if not p.skipped]
    assert order == [21.0, 20.0, 11.0, 10.0]


def test_a_sweep_that_is_started_again_runs_only_what_is_missing(spec, tmp_path):
    plan, log = sweep.read_spec(spec), []
    runs = tmp_path / "runs"
    found = sweep.points(plan)
    assert sweep.run_points(plan, found[:2], runs, lambda _: None, a_runner(log))
    assert len(log) == 2
    assert sweep.run_points(plan, sweep.points(plan), runs, lambda _: None, a_runner(log))
    assert len(log) == 4
    assert len(set(log)) == 4


def test_a_failed_point_is_a_stored_result_and_is_not_run_again(spec, tmp_path):
    plan, log = sweep.read_spec(spec), []
    sweep.run_points(plan, sweep.points(plan), tmp_path, lambda _: None, a_runner(log, "oom"))
    found = sweep.points(plan)
    sweep.run_points(plan, found, tmp_path, lambda _: None, a_runner(log, "oom"))
    assert len(log) == 4
    assert [p.result.status for p in found if not p.skipped] == ["oom"] * 4


def test_an_interrupted_point_ends_the_sweep_and_is_made_again(spec, tmp_path):
    plan, log = sweep.read_spec(spec), []
    stopped = a_runner(log, "cancelled")
    assert not sweep.run_points(plan, sweep.points(plan), tmp_path, lambda _: None, stopped)
    assert len(log) == 1
    assert sweep.run_points(plan, sweep.points(plan), tmp_path, lambda _: None, a_runner(log))
    assert log[1] == f"{log[0]}-2"


def test_the_time_left_is_told_after_the_first_run(spec, tmp_path):
    plan, said = sweep.read_spec(spec), []
    sweep.run_points(plan, sweep.points(plan), tmp_path, said.append, a_runner([]))
    heads = [line for line in said if line[0].isdigit()]
    assert "left" not in heads[0]
    assert all("left" in line for line in heads[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('preset = "tiny_cpu"\ngird = 1', "nearest: grid"),
        ("grid = { sp = [1] }", "preset: missing"),
        ('preset = "tiny_cpu"\ngrid = { sp = 1 }', "list"),
        ('preset = "tiny_cpu"\nname = "../x"', "letters"),
    ],
)
def test_a_wrong_spec_names_the_key(tmp_path, text, said):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(TgsError, match=said):
        sweep.read_spec(path)


@pytest.mark.parametrize("line", ["sp = [3, 5]", "warp = [1, 2]", "engine = ['fsdp3']"])
def test_a_grid_without_a_single_preset_is_an_error_that_names_the_first(tmp_path, line):
    path = tmp_path / "grid.toml"
    path.write_text(f'preset = "tiny_cpu"\n[grid]\n{line}\n')
    done = CliRunner().invoke(command, [str(path), "--dry-run"])
    assert isinstance(done.exception, TgsError)
    assert done.exception.exit_code == ExitCode.BAD_PRESET
    assert line.split()[0] in done.exception.msg


def test_dry_run_starts_nothing(spec, tmp_path):
    done = CliRunner().invoke(command, [str(spec), "--dry-run", "--json", "--output", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert sorted(row["status"] for row in rows) == ["skipped"] * 2 + ["to run"] * 4
    assert not (tmp_path / "r").exists()


def fits_up_to(longest_that_fits, log):
    preset = a_preset("tiny_cpu")

    def attempt(length):
        log.append(length)
        ok = length <= longest_that_fits
        failure = None if ok else Failure(kind="oom", reason="x")
        status = "ok" if ok else "oom"
        return a_result(preset, "x", samples=[1.0] * ok, status=status, failure=failure)

    return attempt


@pytest.mark.parametrize("fitting", [1024, 1025, 5000, 65536, 100_000, 999_999])
@pytest.mark.parametrize("start", [1024, 32768, 524288])
def test_bisection_finds_the_longest_length_to_one_granule(fitting, start):
    log: list[int] = []
    found = max_seq_len.bisect(fits_up_to(fitting, log), start, 1 << 20, 1024)
    assert found.seq_len == fitting // 1024 * 1024
    assert found.too_long == found.seq_len + 1024
    assert len(log) == len(set(log)) <= 22


def test_a_limit_that_trains_ends_the_search():
    found = max_seq_len.bisect(fits_up_to(1 << 30, []), 32768, 262_144, 1024)
    assert (found.seq_len, found.too_long) == (262_144, None)


def test_no_length_is_tried_that_would_not_end_within_the_budget(tmp_path, monkeypatch):
    """Runs of 1, 4, 16 and 64 s are within 100; one of 256 s would not be."""
    preset, clock, said = a_preset("tiny_cpu"), [0.0], []

    def run(variant, *args):
        clock[0] += (variant.workload.seq_len / 1024) ** 2
        return a_result(variant, "x", samples=[1.0])

    monkeypatch.setattr(max_seq_len.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(max_seq_len.sweep, "run_named", run)
    found = max_seq_len.find_longest(preset, tmp_path, "t", 1 << 20, said.append, 100.0)
    assert (found.seq_len, found.too_long, clock[0]) == (8192, None, 85.0)
    assert any("16k: would not end within the budget" in line for line in said)


def test_a_model_that_never_fits_has_no_longest_length():
    found = max_seq_len.bisect(fits_up_to(0, []), 32768, 262_144, 1024)
    assert found.seq_len is None
    assert found.too_long == 1024


def test_a_crash_is_not_taken_for_too_long():
    preset = a_preset("tiny_cpu")
    failure = Failure(kind="exception", reason="boom")

    def attempt(length):
        return a_result(preset, "x", samples=[], status="crashed", failure=failure)

    with pytest.raises(TgsError, match="boom") as raised:
        max_seq_len.bisect(attempt, 1024, 4096, 1024)
    assert raised.value.exit_code == ExitCode.CRASHED


def test_results_of_other_code_or_versions_are_not_taken(spec, tmp_path, monkeypatch):
    plan, log = sweep.read_spec(spec), []
    runner = a_runner(log)
    sweep.run_points(plan, sweep.points(plan)[:1], tmp_path, lambda _: None, runner)
    for name, other in (("code_digest", lambda: "edited"), ("_software", lambda: "torch 2.99")):
        with monkeypatch.context() as patch:
            patch.setattr(sweep, name, other)
            sweep.run_points(plan, sweep.points(plan)[:1], tmp_path, lambda _: None, runner)
    sweep.run_points(plan, sweep.points(plan)[:1], tmp_path, lambda _: None, runner)
    assert len(log) == len(set(log)) == 3


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (f'engine = ["{"x" * 100_000}"]', "engine: a value of more than 200 characters"),
        (f"sp = [1{'0' * 400}]", "sp: a value of more than 200 characters"),
        ("\n".join(f'"a{i}" = [1, 2]' for i in range(5000)), "the grid has more than 10^15 points"),
        (f"sp = {list(range(1, 10_002))}", "the grid has 10,001 points, at most 10,000 are run"),
        (f'"{"k" * 5000}" = ["{"v" * 300}"]', "a value of more than 200 characters"),
    ],
    ids=["a text", "a number", "axes", "values", "a key"],
)
def test_an_absurd_grid_is_refused_before_any_point_is_made(tmp_path, grid, said):
    path = tmp_path / "grid.toml"
    path.write_text(f'preset = "tiny_cpu"\n[grid]\n{grid}')
    with pytest.raises(TgsError) as caught:
        sweep.read_spec(path)
    assert said in caught.value.msg
    assert len(caught.value.msg) < 1000


@pytest.mark.parametrize(
    "value", ["inf", "nan", "-1", "0", "4611686018427387904", "[[1]]", "1979-05-27", "true"]
)
def test_an_absurd_value_is_the_reason_why_its_point_is_skipped(tmp_path, value):
    path = tmp_path / "grid.toml"
    for key in ("sp", "seq_len", '"training.lr"', '"measure.steps"', "accumulation", '"model.num_layers"'):
        path.write_text(f'preset = "tiny_cpu"\n[grid]\n{key} = [{value}]\ncheckpointing = ["full"]')
        try:
            assert all(point.skipped or point.preset for point in sweep.points(sweep.read_spec(path)))
        except TgsError as refused:
            assert "no point makes a preset" in refused.msg


def test_the_table_is_sorted_and_says_by_how_much_the_best_leads():
    preset, failure = a_preset("tiny_cpu"), Failure(kind="oom", reason="no memory")

    def row(label, tgs, **changes):
        result = a_result(preset, label, samples=[tgs * (1 + i / 1000) for i in range(8)], **changes)
        return GridRow(label=label, result=result, forecast_tgs=90.0)

    full = a_result(preset, "x", samples=[], status="oom", failure=failure)
    lines = grid_lines(
        [
            GridRow(label="sp=3", note="skipped: 4 heads"),
            row("sp=1", 100.0),
            GridRow(label="sp=4", result=full),
            row("sp=2", 120.0),
            row("length=2k", 110.0, seq_len=2048),
        ]
    )
    assert [line.split()[0] for line in lines[1:6]] == ["sp=2", "length=2k", "sp=1", "sp=4", "sp=3"]
    for figure in ("120.4", "120.0 to 120.8", "61.20 GiB", "90.00"):
        assert figure in lines[1]
    assert lines[4].endswith("oom: no memory") and lines[5].endswith("skipped: 4 heads")
    assert lines[7] == "best: sp=2"
    assert lines[8].startswith("  not comparable with length=2k: sequence length")
    assert lines[9].startswith("  1.20 x faster than sp=1 (1.19 to 1.21)")


def test_a_single_point_is_no_competition():
    one = GridRow(label="-", result=a_result(a_preset("tiny_cpu"), "x"))
    assert not any("best" in line for line in grid_lines([one]))
