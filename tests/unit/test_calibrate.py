"""Constants fitted on a few runs: what is said of their error, and what the runs do not determine."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.planner.calibrate import Sample, calibrate, error_of
from tgsbench.planner.plan import estimate, machine_of

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
    runs = samples(noise=(0.0, 0.15, 0.0, -0.15))
    found = calibrate(runs, runs[0].machine.constants, "mine")
    assert max(abs(error) for error in found.errors.values()) > 0.15
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


def test_one_run_says_little_of_its_error():
    runs = samples()[:1]
    assert calibrate(runs, runs[0].machine.constants, "mine").constants.error_share >= 0.2
    assert error_of([0.02, 0.02], [1.0, 1.0]) > 3 * error_of([0.02] * 6, [1.0] * 6) / 2
