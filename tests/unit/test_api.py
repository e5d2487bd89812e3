"""The Python API: typed documents, errors that are raised, nothing printed, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

import tgsbench
from tests.unit.stored import FAST, a_preset, a_result, store_run
from tgsbench import api
from tgsbench.errors import ExitCode
from tgsbench.launch.watch import StopSignals
from tgsbench.results.compare import Comparison
from tgsbench.schema.hotspots import Profile
from tgsbench.schema.run import Result

TRACES = "tests/data/traces"


@pytest.fixture
def root(tmp_path):
    store_run(tmp_path, "fast")
    store_run(tmp_path, "slow", samples=[x * 0.9 for x in FAST])
    return tmp_path


def test_importing_the_package_imports_nothing_of_the_api():
    code = "import sys, tgsbench; print([m for m in sys.modules if m.startswith(('tgsbench.', 'msgspec'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tgsbench.version']"


def test_importing_the_api_imports_none_of_what_its_functions_need():
    code = "import sys, tgsbench.api; print([m for m in sys.modules if m.startswith('tgsbench.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    later = ("tgsbench.results", "tgsbench.planner", "tgsbench.launch", "tgsbench.traces", "tgsbench.store")
    assert "tgsbench.presets" in done.stdout
    assert [name for name in later if name in done.stdout] == []


def test_what_the_package_offers_is_what_it_lists():
    offered = {name: getattr(tgsbench, name) for name in tgsbench.__all__}
    assert offered["run"] is api.run and offered["TgsError"] is tgsbench.errors.TgsError
    assert set(tgsbench.__all__) <= set(dir(tgsbench))
    with pytest.raises(AttributeError, match="no attribute 'measure'"):
        tgsbench.measure  # noqa: B018


@pytest.mark.parametrize(
    "overrides",
    [{"measure.steps": 2, "workload.seq_len": "2k"}, ["measure.steps=2", "workload.seq_len=2k"]],
)
def test_overrides_are_a_mapping_or_the_texts_of_set(overrides):
    preset = api.load_preset("tiny_cpu", overrides)
    assert (preset.measure.steps, preset.workload.seq_len) == (2, 2048)


def test_one_text_is_one_override_and_a_text_of_digits_stays_text():
    assert api.load_preset("tiny_cpu", "measure.steps=2").measure.steps == 2
    assert api.load_preset("tiny_cpu", {"description": "1"}).description == "1"


def test_an_override_of_the_wrong_type_is_an_error_with_its_exit_code():
    with pytest.raises(tgsbench.TgsError, match=r"measure\.steps") as raised:
        tgsbench.run("tiny_cpu", {"measure.steps": "many"})
    assert raised.value.exit_code == ExitCode.BAD_PRESET


def test_a_run_that_cannot_start_here_leaves_no_folder(tmp_path):
    with pytest.raises(tgsbench.TgsError, match="64 GPUs") as raised:
        tgsbench.run("llama2_70b_1M", root=tmp_path)
    assert raised.value.exit_code == ExitCode.DOES_NOT_FIT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"repeats": 1}, "two runs"),
        ({"repeats": 3, "emulate_rank": True}, "emulate_rank"),
        ({"repeats": 3, "virtual_gpu": "H100-SXM5-80GB"}, "virtual_gpu"),
    ],
)
def test_repeats_that_would_repeat_nothing_are_refused(tmp_path, options, why):
    with pytest.raises(tgsbench.TgsError, match=why):
        tgsbench.run("tiny_cpu", root=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_repeated_runs_are_one_row_with_the_spread_between_them(tmp_path, monkeypatch):
    def supervise(folder, on_events, *, stop):
        on_events([folder.run_id])
        index = int(folder.run_id[-1])
        return a_result(folder.preset(), folder.run_id, samples=[100.0 + index] * 6)

    heard = []
    monkeypatch.setattr("tgsbench.launch.local.supervise", supervise)
    monkeypatch.setattr("tgsbench.launch.preflight.check", lambda *_, **__: None)
    found = tgsbench.run("tiny_cpu", repeats=3, name="g", root=tmp_path, on_events=heard.extend)
    assert [run.run_id for run in found.runs] == heard == ["g-1", "g-2", "g-3"]
    assert (found.group, found.row.repeats, found.row.label) == ("g", 3, "g")
    assert found.row.tgs == pytest.approx(102.0, rel=1e-4) and found.row.samples == [101.0, 102.0, 103.0]
    (against,) = tgsbench.compare(found, found, root=tmp_path)
    assert against.ratio is not None and against.ratio.value == 1.0


def test_a_plan_is_a_forecast_with_advice_that_can_be_planned_again():
    forecast = tgsbench.plan("llama2_70b_128k", gpu="H100-SXM5-80GB")
    assert forecast.gpu == "H100-SXM5-80GB" and forecast.tgs is not None
    best = forecast.advice[0]
    again = tgsbench.plan("llama2_70b_128k", best.change, gpu="H100-SXM5-80GB")
    assert again.tgs is not None and again.tgs.estimate == pytest.approx(best.tgs)


def test_a_plan_for_unknown_hardware_names_what_is_known():
    with pytest.raises(tgsbench.TgsError, match="A100-SXM4-80GB") as raised:
        tgsbench.plan("llama2_7b_8k", gpu="RTX4090")
    assert raised.value.exit_code == ExitCode.UNKNOWN_HARDWARE


def test_rows_are_compared_with_the_first_or_with_the_baseline(root):
    (found,) = tgsbench.compare("fast", "slow", root=root)
    assert isinstance(found, Comparison)
    assert (found.a.label, found.b.label, found.verdict) == ("slow", "fast", "worse")
    named = tgsbench.compare("fast", "slow", baseline="slow", root=root)
    assert [(c.a.label, c.b.label) for c in named] == [("fast", "slow"), ("slow", "slow")]
    assert named[0].ratio is not None and named[0].ratio.value == pytest.approx(1 / 0.9)


def test_results_are_compared_as_they_are(root):
    result = a_result(a_preset(), "mine", samples=[x * 2 for x in FAST])
    (found,) = tgsbench.compare("fast", result, root=root)
    assert found.ratio is not None and found.ratio.value == pytest.approx(2)


@pytest.mark.parametrize("words", [(), ("fast",)])
def test_one_row_is_no_comparison(root, words):
    with pytest.raises(tgsbench.TgsError, match="two rows"):
        tgsbench.compare(*words, root=root)


def test_a_stored_run_is_loaded_by_a_part_of_its_name(root):
    result = tgsbench.load_run("slo", root=root)
    assert isinstance(result, Result) and result.run_id == "slow"
    with pytest.raises(tgsbench.TgsError, match="no run called 'none'") as raised:
        tgsbench.load_run("none", root=str(root))
    assert raised.value.exit_code == ExitCode.STORE


def test_the_folder_of_runs_is_the_one_of_the_environment(root, monkeypatch):
    monkeypatch.setenv("TGSBENCH_RUNS", str(root))
    assert tgsbench.load_run("fast").run_id == "fast"


def test_traces_of_any_program_are_profiled():
    found = tgsbench.profile(TRACES)
    assert isinstance(found, Profile) and [rank.rank for rank in found.ranks] == [0, 1]


def test_a_run_without_traces_says_how_to_capture_some(root):
    with pytest.raises(tgsbench.TgsError, match="no captured traces"):
        tgsbench.profile("fast", root=root)


def test_outside_the_main_thread_signals_stay_the_programs_own():
    before, seen = signal.getsignal(signal.SIGINT), []

    def listen():
        with StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.caught))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
