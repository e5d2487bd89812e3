"""Every run keeps its forecast; a long one says how long, and how the same speed is had sooner."""

from __future__ import annotations

import pytest

from tgsbench import presets
from tgsbench.launch import forecast as forecasting
from tgsbench.launch.forecast import forecast, forecast_note
from tgsbench.system.gpus import GpuInfo


def test_a_gpu_that_is_described_is_planned_for_and_an_unknown_one_is_not_guessed(monkeypatch):
    preset = presets.resolve("llama2_7b_128k").preset
    monkeypatch.setattr(forecasting, "list_gpus", lambda: [GpuInfo(0, "NVIDIA H100 80GB HBM3")] * 8)
    plan, why = forecast(preset)
    assert plan["tgs"]["predicted"] > presets.load_references()["llama2_7b_128k"][0].tgs
    assert why == ""
    monkeypatch.setattr(forecasting, "list_gpus", lambda: [GpuInfo(0, "Imaginary 9000")])
    assert forecast(preset) == (None, "no peak is known for Imaginary 9000")


def test_a_cpu_run_is_planned_for_its_memory_alone():
    plan, _ = forecast(presets.resolve("tiny_cpu").preset)
    assert plan["memory"]["total_gib"] > 0
    assert plan["tgs"] is None


def test_a_long_run_says_how_the_same_speed_is_had_sooner():
    preset = presets.resolve("llama2_70b_1M", ["measure.steps=2", "measure.warmup=1"]).preset
    note = forecast_note(preset, {"step_s": 48000.0})
    assert "40:00:00" in note
    assert "training.accumulation=1" in note
    assert "37:30" in note


@pytest.mark.parametrize("prediction", [None, {}, {"step_s": None}, {"step_s": 1.0}])
def test_a_short_run_or_one_without_forecast_says_nothing(prediction):
    assert forecast_note(presets.resolve("tiny_cpu").preset, prediction) == ""
