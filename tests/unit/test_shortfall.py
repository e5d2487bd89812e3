"""After an out-of-memory error: what the plan missed, and the smallest change that should fit then."""

from __future__ import annotations

import re

import pytest

from tgsbench import presets
from tgsbench.planner.plan import forecast_preset
from tgsbench.planner.shortfall import explain
from tgsbench.units import GIB

A100 = "A100-SXM4-80GB"
CARD_GIB = 79.2


def total_gib(preset) -> float:
    return forecast_preset(preset).memory.total_gib


@pytest.mark.parametrize(("in_use_gib", "asked_gib"), [(77.9, 2.5), (70.0, 20.0)])
def test_the_remedy_fits_the_card_even_with_what_the_plan_missed(in_use_gib, asked_gib):
    preset = presets.resolve("llama2_7b_256k").preset
    found = explain(preset, A100, int(in_use_gib * GIB), int(asked_gib * GIB))
    missed = in_use_gib + asked_gib - total_gib(preset)
    assert f"{missed:.2f} GiB more than planned" in found.forecast
    assert f"ran out at {in_use_gib + asked_gib:.2f} GiB" in found.forecast
    changed = presets.resolve("llama2_7b_256k", re.findall(r"--set (\S+)", found.remedy)).preset
    assert changed != preset
    assert total_gib(changed) + missed <= CARD_GIB


def test_the_smallest_change_comes_first():
    preset = presets.resolve("llama2_7b_8k", ["training.checkpointing=none"]).preset
    found = explain(preset, A100, int(78 * GIB), 2 * GIB)
    assert "--set training.checkpointing=" in found.remedy
    assert "hardware.num_gpus" not in found.remedy


def test_memory_that_others_hold_is_not_counted_on():
    """40 + 10 GiB failed on a card of 79: the other 29 are somebody else's, so at least 10 must go."""
    preset = presets.resolve("llama2_7b_256k").preset
    found = explain(preset, A100, 40 * GIB, 10 * GIB)
    changed = presets.resolve("llama2_7b_256k", re.findall(r"--set (\S+)", found.remedy)).preset
    assert total_gib(changed) + (50 - total_gib(preset)) <= 40


def test_a_rank_that_failed_below_its_plan_says_so():
    preset = presets.resolve("llama2_7b_1M", ["parallel.sp=1"]).preset
    found = explain(preset, A100, 78 * GIB, 4 * GIB)
    assert found.forecast.endswith("less than planned")


def test_without_figures_there_is_the_plan_alone_and_without_hardware_nothing():
    preset = presets.resolve("llama2_7b_8k").preset
    found = explain(preset, A100, 0, 0)
    assert found.forecast == f"planned {total_gib(preset):.2f} GiB a rank"
    assert found.remedy == ""
    assert explain(preset, "MI300", 1, 1) is None
