"""Constants fitted on a few runs: what is said of their error, and what the runs do not determine."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.cli.plan import plan as plan_command
from tgsbench.errors import TgsError
from tgsbench.planner.calibrate import Sample, calibrate, error_of
from tgsbench.planner.plan import estimate, machine_of
from tgsbench.presets import load_model
from tgsbench.results import imported
from tgsbench.results.imported import Context, from_csv
from tgsbench.results.imported_samples import ImportedSettings, imported_samples

LENGTHS = ("8k", "16k", "32k", "64k")


def samples(factor: float = 0.9, noise: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)) -> list[Sample]:
    """Runs on one node whose products reach `factor` of the shipped share, each off by its noise."""
    made = []
    for length, off in zip(LENGTHS, noise, strict=True):
        preset = presets.resolve("llama2_7b_8k", [f"workload.seq_len={length}"]).preset
        machine = machine_of(preset)
        slower = replace(machine.constants, gemm_share=machine.constants.gemm_share * factor)
        numbers = estimate(preset, replace(machine, constants=slower))
        made.append(Sample(label=length, work=numbers.work, machine=machine, tgs=numbers.tgs * (1 + off)))
    return made


def test_runs_move_what_they_determine_and_name_what_they_do_not():
    runs = samples()
    found = calibrate(runs, runs[0].machine.constants, "mine")
    share = runs[0].machine.constants.gemm_share
    assert found.constants.gemm_share == pytest.approx(0.9 * share, rel=0.03)
    assert "gemm" in found.moved
    assert "across" in found.guesses  # one node has no network
    assert found.constants.stacks == ["fsdp2"]


def test_the_error_is_that_of_runs_left_out_not_of_the_fit():
    runs = samples(noise=(0.0, 0.2, 0.0, -0.2))
    found = calibrate(runs, runs[0].machine.constants, "mine")
    assert max(abs(error) for error in found.errors.values()) > 0.2
    assert found.constants.error_share > 0.15
    spread = found.constants.spreads["stack and GPU"]
    assert spread.below == pytest.approx(found.constants.error_share, abs=1e-3)
    assert all(other.below >= spread.below for other in found.constants.spreads.values())


def test_a_disturbed_run_counts_a_quarter_and_is_named():
    runs = samples(noise=(0.0, 0.0, 0.0, -0.4))
    marked = [*runs[:3], replace(runs[3], disturbed=True)]
    quiet, loud = (calibrate(s, runs[0].machine.constants, "mine") for s in (marked, runs))
    truth = 0.9 * runs[0].machine.constants.gemm_share
    assert abs(quiet.constants.gemm_share - truth) < abs(loud.constants.gemm_share - truth)
    assert quiet.disturbed == ["64k"]
    assert quiet.constants.error_share < loud.constants.error_share


def test_runs_of_one_label_are_runs_of_their_own():
    twice = [replace(run, label="a row") for run in samples(noise=(0.0, 0.02, -0.02, 0.0))]
    apart = calibrate(samples(noise=(0.0, 0.02, -0.02, 0.0)), twice[0].machine.constants, "mine").constants
    assert calibrate(twice, twice[0].machine.constants, "mine").constants.error_share == apart.error_share


def test_constants_of_another_gpu_hold_runs_less():
    """Where the constants were carried over, the runs of this GPU move them all the way."""
    runs = samples(factor=0.6)[:2]
    start = runs[0].machine.constants
    here, carried = (calibrate(runs, c, "mine") for c in (start, replace(start, carried_over="of another")))
    truth = 0.6 * start.gemm_share
    assert abs(carried.constants.gemm_share - truth) < abs(here.constants.gemm_share - truth)
    assert carried.constants.carried_over == ""


def test_two_runs_say_more_where_the_gpu_was_measured():
    here, elsewhere = (error_of([0.02, -0.02], [1.0, 1.0], gpu_known=known) for known in (True, False))
    assert here < elsewhere


def test_one_run_says_little_of_its_error():
    runs = samples()[:1]
    assert calibrate(runs, runs[0].machine.constants, "mine").constants.error_share >= 0.2
    assert error_of([0.02, 0.02], [1.0, 1.0]) > 3 * error_of([0.02] * 6, [1.0] * 6) / 2


def imported_rows(folder, system="fsdp2", **said):
    """The runs of `samples` as rows of a table that was imported, one file a row."""
    for run in samples():
        table = f"name,tgs,seq_len\n{run.label},{run.tgs},{run.label}\n"
        context = Context(
            name="t", model=load_model("llama2_7b"), seq_len=0, gpu="A100-SXM4-80GB", num_gpus=8, **said
        )
        imported.save(folder, from_csv(table, context, {})[0])


def plan(*words):
    return CliRunner().invoke(plan_command, ["--calibrate", "--from-imported", *words])


def test_imported_rows_calibrate_what_runs_would(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    imported_rows(tmp_path, preset="llama2_7b_8k")
    done = plan("--system", "fsdp2", "--output", str(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    by_runs = calibrate(samples(), samples()[0].machine.constants, "mine")
    assert found["constants"]["gemm_share"] == pytest.approx(by_runs.constants.gemm_share, rel=1e-6)
    assert found["errors"].keys() == {f"t-{length}" for length in LENGTHS}
    assert "across" in found["guesses"]
    shown = plan("--system", "fsdp2", "--output", str(tmp_path), "t-8k", "t-64k").output
    assert "by constants fitted on the others" in shown


def test_a_row_of_another_model_than_its_preset_is_planned_as_what_it_is(tmp_path):
    imported_rows(tmp_path, preset="llama2_70b_8k")
    (found,) = imported_samples(tmp_path, ["t-8k"], ImportedSettings(system="fsdp2"))
    assert found.work.dims == samples()[0].work.dims


@pytest.mark.parametrize(
    ("said", "words", "problem", "remedy"),
    [
        ({"preset": "llama2_7b_8k"}, [], "csv has no described costs", "--system"),
        ({}, ["--system", "fsdp2"], "checkpointing is not known", "--set training.checkpointing=full"),
        ({"preset": "llama2_7b_8k"}, ["t-9k"], "no imported row called 't-9k'", "import"),
        ({"preset": "llama2_7b_8k"}, ["--gpu", "H200"], "no imported row of H200", "import"),
    ],
)
def test_a_row_that_says_too_little_is_refused_with_the_word_that_is_missing(
    said, words, problem, remedy, tmp_path
):
    imported_rows(tmp_path, **said)
    done = plan("--output", str(tmp_path), *words)
    assert isinstance(done.exception, TgsError), done.output
    assert problem in done.exception.msg
    assert remedy in done.exception.hint


def test_an_imported_log_of_unsteady_steps_counts_a_quarter_and_one_without_gpus_is_refused(tmp_path):
    def log(values):
        lines = "".join(f"step: {n}  loss: 7.1  memory: 40GiB(5%)  tps: {v}\n" for n, v in enumerate(values))
        context = Context(
            name="l",
            model=load_model("llama2_7b"),
            seq_len=8192,
            gpu="A100-SXM4-80GB",
            preset="llama2_7b_8k",
            tool="torchtitan",
            warmup=0,
        )
        return imported.from_log(lines, context)

    unsaid = log([1000 + n % 3 for n in range(12)])
    imported.save(tmp_path, unsaid)
    with pytest.raises(TgsError, match="number of GPUs"):
        imported_samples(tmp_path, ["l"], ImportedSettings())
    for values, disturbed in (([1000, 2000] * 6, True), ([1000, 1010] * 6, False)):
        row = replace(log(values).row, num_gpus=8, label=f"l{disturbed}")
        imported.save(tmp_path, replace(unsaid, row=row, num_gpus_said=True))
        (found,) = imported_samples(tmp_path, [row.label], ImportedSettings())
        assert found.disturbed is disturbed
        assert found.work.system.name == "torchtitan"
