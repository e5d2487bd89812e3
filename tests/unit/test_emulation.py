"""From times at two depths to the projected step."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from tests.unit.stored import a_forecast, a_result
from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight
from tgsbench.metrics.emulation import emulation
from tgsbench.report.summary import summary_lines
from tgsbench.schema.events import Depth
from tgsbench.units import GIB

run_command = import_module("tgsbench.cli.run")
PRESET = presets.resolve("llama2_70b_1M").preset
ACCUMULATION, LAYERS = 64, 80
FIXED_S, LAYER_S, NORM_S, UPDATE_S = 0.3, 2.0, 0.01, 0.002
COMMUNICATION = {"all_to_all_network": 30.0, "gather_exposed": 4.0, "gemm": 1e9}


def _events(noise=lambda index: 0.0, depths=(2, 4), built=4, layers_s=LAYER_S):
    from tgsbench.metrics.integrity import expected_all_to_alls, expected_kv_hops

    (calls, num_bytes), (hops, hop_bytes) = expected_all_to_alls(PRESET), expected_kv_hops(PRESET)
    share = ACCUMULATION * LAYERS
    for index in range(7):
        for depth in depths:
            yield Depth(
                num_layers=depth,
                built_layers=built,
                index=index,
                micro_step_s=FIXED_S + depth * (layers_s + noise(index)),
                optimizer_s=NORM_S + depth * UPDATE_S,
                local_tokens=16384,
                state_bytes_per_layer=GIB // 8,
                mem_peak=(10 + depth) * GIB,
                a2a_calls=depth * calls // share,
                a2a_bytes=depth * num_bytes // share,
                hop_calls=depth * hops // share,
                hop_bytes=depth * hop_bytes // share,
            )


def _projected(events, forecast=None):
    return emulation(PRESET, events, forecast, "NVIDIA H100 80GB HBM3", float(PRESET.workload.seq_len))


def test_layer_and_fixed_costs_separate_and_add_up_to_the_step():
    got = _projected(_events(), a_forecast(time=COMMUNICATION))
    assert got.layer_s == pytest.approx(LAYER_S)
    assert got.micro_fixed_s == pytest.approx(FIXED_S)
    assert got.optimizer_s == pytest.approx(NORM_S + LAYERS * UPDATE_S)
    compute = ACCUMULATION * (FIXED_S + LAYERS * LAYER_S) + NORM_S + LAYERS * UPDATE_S
    assert got.compute_s == pytest.approx(compute)
    assert got.communication_s == 34.0, "computation that the planner forecasts is not communication"
    assert got.step_s == pytest.approx(compute + 34.0)
    assert got.tgs == pytest.approx(PRESET.tokens_per_step / 64 / got.step_s)
    assert got.mfu == pytest.approx(got.tflops["model"] / 989.4)
    assert got.problems == []


def test_the_interval_holds_the_spread_of_repetitions_and_the_error_of_communication():
    got = _projected(_events(lambda index: 0.01 * (index - 3)), a_forecast(time=COMMUNICATION))
    fast, slow = (ACCUMULATION * LAYERS * (LAYER_S + d) for d in (-0.03, 0.03))
    rest = ACCUMULATION * FIXED_S + NORM_S + LAYERS * UPDATE_S
    per_gpu = PRESET.tokens_per_step / 64
    assert got.tgs_low == pytest.approx(per_gpu / (slow + rest + 34.0 * 1.4))
    assert got.tgs_high == pytest.approx(per_gpu / (fast + rest + 34.0 * 0.6))
    assert got.tgs_low < got.tgs < got.tgs_high


def test_memory_grows_by_activations_and_by_states_of_layers_that_were_not_built():
    got = _projected(_events(), a_forecast(tensors_gib=95.0))
    assert got.mem_measured_gib == {2: 12.0, 4: 14.0}
    assert got.mem_projected_gib == pytest.approx(14.0 + 76 * 1.0 + 76 / 8)
    assert got.mem_planned_gib == 95.0


def test_an_attempt_that_ran_out_of_memory_is_left_out():
    failed = list(_events(depths=(4, 8), built=8))[:1]
    got = _projected([*failed, *_events(depths=(2, 4), built=4)])
    assert got.depths == [2, 4]


def test_one_depth_gives_nothing():
    assert _projected(list(_events(depths=(4,)))) is None


def test_missing_all_to_alls_and_impossible_times_are_said():
    events = list(_events(layers_s=-0.01))
    events[0].a2a_calls += 1
    events[1].finite = False
    events[2].hop_calls -= 1
    events[3].ring_calls += 1
    problems = " ".join(_projected(events).problems)
    assert "4 layers gave a loss or gradients that are not finite" in problems
    assert "2 layers did not make the 18 all-to-alls that they must" in problems
    assert "2 layers did not make the 6 all-to-alls of keys and values between nodes that they" in problems
    assert "4 layers did not make the 0 messages of a ring that they must" in problems
    assert "too noisy" in problems
    assert "no forecast" in problems


def test_a_forecast_without_time_counts_as_no_forecast_of_communication():
    memory_only = a_forecast(tensors_gib=4.0)
    assert any("communication counts as 0" in text for text in _projected(_events(), memory_only).problems)
    known = a_forecast(time=COMMUNICATION)
    assert not any("counts as 0" in text for text in _projected(_events(), known).problems)


_REFUSED = {
    "engine": (["engine.name=deepspeed"], False, ExitCode.UNSUPPORTED, "fsdp2 engine only, not 'deepspeed'"),
    "one layer": (["model.num_layers=1"], False, ExitCode.DOES_NOT_FIT, "has one layer"),
    "profile": (["profile=hotspots"], False, ExitCode.UNSUPPORTED, "captures no trace"),
    "nodes": ([], True, ExitCode.USAGE, "one process on one machine"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_no_rank_can_be_emulated_of_is_refused_before_anything_starts(case):
    sets, on_several, code, text = _REFUSED[case]
    with pytest.raises(TgsError, match=text) as caught:
        preflight.check_emulation(presets.resolve("tiny_cpu", sets).preset, on_several)
    assert caught.value.exit_code == code and caught.value.hint


def test_every_shipped_preset_of_our_own_engine_can_be_emulated():
    for name in ("llama2_70b_1M", "llama2_7b_1M", "llama2_7b_128k", "tiny_cpu"):
        preflight.check_emulation(presets.resolve(name).preset, on_several=False)


def _lines(forecast) -> str:
    emulated = _projected(_events(), forecast)
    result = a_result(PRESET, "one", samples=[], status="emulated", emulated=emulated, forecast=forecast)
    return "\n".join(summary_lines(result))


def test_measured_modelled_and_projected_are_told_apart():
    text = _lines(a_forecast(time=COMMUNICATION, tensors_gib=95.0))
    assert "34 s of communication" in text and "all_to_all_network 30 s, gather_exposed 4 s" in text
    assert "compare with nothing that was measured" in text
    assert "GiB projected for all layers, planned 95.00 GiB" in text


def test_a_missing_forecast_is_no_word_that_nothing_was_sent():
    text = _lines(a_forecast(tensors_gib=95.0))
    assert "modelled    nothing: communication has no forecast here and counts as 0" in text
    assert "no communication" not in text


def test_in_a_terminal_too_it_prints_its_projection_instead_of_a_live_view_without_steps(
    monkeypatch, tmp_path
):
    said = []
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True), exit=sys.exit)
    monkeypatch.setattr(run_command, "sys", terminal)
    monkeypatch.setattr(run_command, "_open_live_view", lambda folder: pytest.fail("opened the live view"))
    monkeypatch.setattr(
        run_command,
        "run_headless",
        lambda folder, preset, as_json, **_: said.append(preset.name) or a_result(preset, "x"),
    )
    monkeypatch.setattr(run_command, "_exit_code", lambda result, folder: 0)
    args = ["--preset", "tiny_cpu", "--emulate-rank", "--output", str(tmp_path)]
    done = CliRunner().invoke(run_command.run, args)
    assert done.exit_code == 0, done.output
    assert said == ["tiny_cpu"]


def test_projected_memory_grows_by_what_one_moment_holds_and_not_by_peaks_of_two():
    """Peaks 6 GiB a layer apart, of different moments; half a GiB of activations is what a layer keeps."""
    events = [
        msgspec.structs.replace(e, mem_peak=(10 + 6 * n) * GIB, mem_forward=(8 + n // 2) * GIB)
        for e in _events()
        if (n := e.num_layers)
    ]
    states = 76 / 8 + 80 / 8 / 3  # parameters and moments of layers not built; gradients of all
    assert _projected(events).mem_projected_gib == pytest.approx(34.0 + 76 * 0.5 + states)


def test_experts_of_several_ranks_are_emulated_with_tokens_dealt_in_turn_alone():
    preset = presets.resolve("qwen3_30b_a3b_8k", ["parallel.ep=8"]).preset
    with pytest.raises(TgsError, match="other routers' choice") as caught:
        preflight.check_emulation(preset, on_several=False)
    assert "training.routing=uniform" in caught.value.hint
    uniform = presets.resolve("qwen3_30b_a3b_8k", ["parallel.ep=8", "training.routing=uniform"]).preset
    preflight.check_emulation(uniform, on_several=False)
