"""Every run keeps its forecast; a long one says how long, and how the same speed is had sooner."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_forecast, store_run
from tgsbench import presets
from tgsbench.cli.compare import compare
from tgsbench.report.forecast import forecast_text
from tgsbench.results import forecast as forecasting
from tgsbench.results.forecast import forecast_here, forecast_note
from tgsbench.schema.forecast import TgsRange
from tgsbench.system.gpus import GpuInfo


def test_a_gpu_that_is_described_is_planned_for_and_an_unknown_one_is_not_guessed(monkeypatch):
    preset = presets.resolve("llama2_7b_128k").preset
    monkeypatch.setattr(forecasting, "list_gpus", lambda: [GpuInfo(0, "NVIDIA H100 80GB HBM3")] * 8)
    found, why = forecast_here(preset)
    assert found.tgs.estimate > presets.load_references()["llama2_7b_128k"][0].tgs
    assert why == ""
    monkeypatch.setattr(forecasting, "list_gpus", lambda: [GpuInfo(0, "Imaginary 9000")])
    assert forecast_here(preset) == (None, "no peak is known for Imaginary 9000")


def test_a_cpu_run_is_planned_for_its_memory_alone():
    found, _ = forecast_here(presets.resolve("tiny_cpu").preset)
    assert found.memory.total_gib > 0
    assert found.tgs is None


def test_a_long_run_says_how_the_same_speed_is_had_sooner():
    preset = presets.resolve("llama2_70b_1M", ["measure.steps=2", "measure.warmup=1"]).preset
    note = forecast_note(preset, a_forecast(step_s=48000.0))
    assert "40:00:00" in note
    assert "training.accumulation=1" in note
    assert "37:30" in note


@pytest.mark.parametrize("kept", [None, a_forecast(), a_forecast(step_s=1.0)])
def test_a_short_run_or_one_without_forecast_says_nothing(kept):
    assert forecast_note(presets.resolve("tiny_cpu").preset, kept) == ""


KEPT = a_forecast(tgs=TgsRange(estimate=2000.0, low=1800.0, high=2200.0), total_gib=50.3)


def test_predicted_beside_measured_in_words():
    assert forecast_text(KEPT) == "TGS 2,000 (1,800 to 2,200); memory 50.30 GiB"
    assert "measured 1.10 of it" in forecast_text(KEPT, 2200.0)
    assert forecast_text(a_forecast(total_gib=1.0), 5.0) == "memory 1.00 GiB"
    assert forecast_text(None) == forecast_text(a_forecast()) == ""


def test_compare_says_what_was_predicted_and_takes_a_runs_own_forecast_as_a_row(tmp_path, capsys):
    store_run(tmp_path, "mine", forecast=KEPT)
    store_run(tmp_path, "without")
    done = CliRunner().invoke(compare, ["mine", "predicted:mine", "--output", str(tmp_path)])
    assert "mine: predicted TGS 2,000 (1,800 to 2,200), measured 1.15 of it" in done.output
    assert "predicted:mine against mine" in done.output
    assert "0.869x" in done.output
    refused = CliRunner().invoke(compare, ["mine", "predicted:without", "--output", str(tmp_path)])
    assert "without keeps no forecast" in refused.exception.msg
