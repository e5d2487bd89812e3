"""gpu-check's orchestration and report, without a GPU."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest
import torch

from benchmarks import gpu_check, gpu_overhead, gpu_peers, gpu_rank
from benchmarks.gpu_report import lines, published
from tgsbench import presets

H100 = "NVIDIA H100 80GB HBM3"
HERE = {"gpu": H100, "torch": "2.11.0", "transformers": "5.4.0", "problem": ""}


def _report(mfu: float) -> dict:
    row = {
        "preset": "llama2_7b_4l_32k", "checkpointing": "none", "kernel": "cudnn 9", "tgs": 5e4, "mfu": mfu,
        "kernel_reason": "measured", "step_s": [0.6], "peak_gib": 31.0, "planned_gib": 30.0,
        "shares": {"gemm": 0.6},
    }  # fmt: skip
    failed = {"preset": "llama3_1b_128k", "error": "OutOfMemoryError: tried to allocate"}
    slower = row | {"variant": "full", "mfu": mfu / 2, "checkpointing": "full"}
    both = {"forward_tflops": 500.0, "backward_tflops": 400.0, "both_tflops": 430.0}
    return {
        "machine": HERE,
        "tiny": False,
        "sections": {
            "train": {"rows": [row, failed], "total_s": 60.0},
            "mfu": {"rows": [row | {"variant": "cudnn"}, slower, failed | {"variant": "liger"}]},
            "attention": {
                "rows": [{"seq_len": 131072, "heads": 4, "kv_heads": 4, "kernel": "flash3", **both}],
                "error": "cut off after 60 s",
            },
            "gemm": {"error": "CUDA error", "total_s": 1.0},
            "peers": {"skipped": "3 s left, it takes about 80 s"},
            "tests": {"counts": {"passed": 43, "failed": 1}, "failed": ["tests/gpu/x"], "total_s": 30.0},
        },
    }


def test_targets_are_said_to_be_reached_or_not():
    good, bad = ("\n".join(lines(_report(mfu))) for mfu in (0.51, 0.49))
    assert "best model MFU 51.0 % (to reach: 50 %: reached" in good
    assert "best model MFU 49.0 % (to reach: 50 %: NOT reached" in bad
    assert "+3.3 %" in good, "peak memory beside the plan"


def test_what_failed_or_was_not_run_is_said():
    text = "\n".join(lines(_report(0.5)))
    assert "gemm: FAILED\n  CUDA error" in text
    assert "llama3_1b_128k     FAILED: OutOfMemoryError" in text, "beside the row that ran"
    assert "peers: not run: 3 s left" in text
    assert "43 passed, 1 failed" in text and "failed: tests/gpu/x" in text


def test_what_a_section_found_before_it_was_cut_off_is_shown():
    text = "\n".join(lines(_report(0.5)))
    assert "attention: FAILED" in text and "cut off after 60 s" in text
    assert "flash3     500 (616)" in text


def test_attention_stands_beside_the_published_speed_of_its_length():
    assert published("FA3", "fwd", 8192) == 602
    assert published("FA3", "fwd", 131072) == 616, "the longest published, 16k"
    assert published("FA2", "fwd+bwd", 32768) == 328
    assert published("FA3", "fwd+bwd", 8192) is None, "nobody published it"


@pytest.fixture
def ran(monkeypatch):
    """Sections that end at once, with the limit that each was given."""
    limits = {}

    def section(name, tiny, limit_s):
        limits[name] = limit_s
        return {"ran": name}

    monkeypatch.setattr(gpu_check, "section", section)
    return limits


def test_a_section_that_would_overrun_the_budget_is_skipped_and_what_was_merged_is_kept(ran, tmp_path):
    report = {"tiny": False, "sections": {"gemm": {"old": 1}, "emulate": {"old": 1}}}
    left_s = gpu_check.TYPICAL_S["emulate"] / 2 - 1
    gpu_check.run_all(["gemm", "mfu", "emulate"], report, time.monotonic() + left_s, tmp_path / "x.json")
    assert report["sections"]["gemm"]["ran"] == "gemm"
    assert "takes about" in report["sections"]["mfu"]["skipped"]
    assert report["sections"]["emulate"] == {"old": 1}


def test_one_section_cannot_spend_the_others_time(ran, tmp_path):
    gpu_check.run_all(["gemm"], {"tiny": False, "sections": {}}, time.monotonic() + 400, tmp_path / "x.json")
    assert ran["gemm"] == 2 * gpu_check.TYPICAL_S["gemm"] + gpu_check.COLD_S


def test_the_report_is_on_disk_after_every_section(ran, monkeypatch, tmp_path):
    path = tmp_path / "new" / "x.json"

    def second_breaks(name, tiny, limit_s):
        if name == "attention":
            assert json.loads(path.read_text())["sections"]["gemm"]["ran"] == "gemm"
            raise KeyboardInterrupt
        return {"ran": name}

    monkeypatch.setattr(gpu_check, "section", second_breaks)
    with pytest.raises(KeyboardInterrupt):
        report = {"tiny": False, "sections": {}}
        gpu_check.run_all(["gemm", "attention"], report, time.monotonic() + 400, path)
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


_HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print('{"rows": [1]}', '{"rows": [1, 2], "child": %d}' % child.pid, sep="\\n")
print('{"rows": [1, 2, 3', flush=True)
time.sleep(60)
"""


def test_a_section_that_hangs_is_ended_with_its_children_and_what_it_found_is_kept():
    code, out, _ = gpu_check._run([sys.executable, "-c", _HANGS], dict(os.environ), 5.0)
    found = gpu_check._last_document(out)
    assert code is None
    assert found["rows"] == [1, 2], "the last whole line"
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # the kernel reaps it when its turn comes
            os.kill(found["child"], 0)
            time.sleep(0.05)


def test_tests_are_counted_also_when_they_were_cut_off():
    found = gpu_check._tests(
        "collected 3 items\n\n"
        "tests/gpu/test_a.py::test_x[whole pack-(8, 8)-flash2] PASSED [ 33%]\n"
        "tests/gpu/test_a.py::test_x[documents-(8, 8)-flash2] FAILED [ 66%]\n"
        "tests/gpu/test_a.py::test_y SKIPPED (needs liger-kernel) [ 99%]\n"
        "tests/gpu/test_a.py::test_z "
    )
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1, "error": 0}
    assert found["failed"] == ["tests/gpu/test_a.py::test_x[documents-(8, 8)-flash2]"]


def test_the_result_is_named_after_gpu_and_date_and_replaces_none(tmp_path):
    first = gpu_check.new_file(H100, tmp_path)
    assert first.name.startswith("nvidia-h100-80gb-hbm3-20")
    gpu_check.store(_report(0.5), first)
    assert json.loads(first.read_text())["machine"]["torch"] == "2.11.0"
    assert gpu_check.new_file(H100, tmp_path).name == first.name.replace(".json", "-2.json")


def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "machine", lambda: HERE | {"gpu": "", "problem": "built for CPUs only"})
    assert gpu_check.main(["--out", str(tmp_path / "results")]) == 3
    assert "no GPU can be used here: built for CPUs only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "remedy"), [("torch", "make gpu-check PYTHON="), ("msgspec", "gpu-wheels")])
def test_a_python_without_a_package_is_named_with_the_remedy(monkeypatch, capsys, name, remedy):
    find = gpu_check.importlib.util.find_spec
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda n: None if n == name else find(n))
    assert gpu_check.main([]) == 6
    err = capsys.readouterr().err
    assert f"{sys.executable} has no {name}" in err and remedy in err


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--sections", "gemm,atention"])
    assert ended.value.code == 2
    assert "no section atention; there are tests, attention" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("{", "no report of gpu-check"),
        ("[]", "no report of gpu-check"),
        (json.dumps({"machine": HERE | {"torch": "2.12.0"}, "sections": {}}), "it is of torch '2.12.0'"),
    ],
    ids=["missing", "torn", "something else", "another torch"],
)
def test_a_file_that_cannot_be_added_to_is_refused_and_left_alone(monkeypatch, tmp_path, capsys, text, why):
    monkeypatch.setattr(gpu_check, "machine", lambda: HERE)
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text)
    assert gpu_check.main(["--merge", str(path), "--sections", "gemm"]) == 2
    assert why in capsys.readouterr().err
    assert text is None or path.read_text() == text


def test_merging_adds_to_the_file_itself(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "machine", lambda: HERE)
    monkeypatch.setattr(gpu_check, "section", lambda *_: {"tflops": {"8192^3": 700.0}})
    path = tmp_path / "before.json"
    path.write_text(json.dumps(_report(0.5)))
    assert gpu_check.main(["--merge", str(path), "--sections", "gemm"]) == 0
    found = json.loads(path.read_text())["sections"]
    assert found["gemm"]["tflops"] == {"8192^3": 700.0}
    assert found["train"]["total_s"] == 60.0
    assert f"stored {path}" in capsys.readouterr().out


def test_the_files_of_several_commands_become_one(tmp_path, capsys):
    first, second, other = (tmp_path / f"{name}.json" for name in "abc")
    report = _report(0.5)
    first.write_text(
        json.dumps(report | {"sections": {"gemm": {"error": "CUDA error"}, "peers": {"skipped": ""}}})
    )
    gemm = {"tflops": {"8192^3": 700.0}, "total_s": 9.0}
    second.write_text(json.dumps(report | {"sections": {"gemm": gemm, "tests": report["sections"]["tests"]}}))
    assert gpu_check.main(["--collect", str(second), str(first), "--out", str(tmp_path / "out")]) == 0
    (stored,) = (tmp_path / "out").iterdir()
    found = json.loads(stored.read_text())["sections"]
    assert found["gemm"] == gemm, "what ran whole, though the other came later"
    assert list(found) == ["tests", "gemm", "peers"], "in the order of the sections"
    other.write_text(json.dumps(report | {"machine": HERE | {"gpu": "NVIDIA B200"}}))
    assert gpu_check.main(["--collect", str(first), str(other)]) == 2
    assert "this machine has 'NVIDIA B200'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"rows": [{"preset": "a", "error": "OutOfMemoryError: "}]}, 1),
        ({"tflops": {}, "error": "cut off after 20 s"}, 1),
        ({"tflops": {"8192^3": 700.0}}, 0),
    ],
    ids=["a row failed", "cut off", "whole"],
)
def test_the_exit_code_says_whether_all_of_it_ran(monkeypatch, tmp_path, found, code):
    monkeypatch.setattr(gpu_check, "machine", lambda: HERE)
    monkeypatch.setattr(gpu_check, "section", lambda *_: dict(found))
    monkeypatch.setattr(gpu_check, "lines", lambda report: [])
    assert gpu_check.main(["--out", str(tmp_path), "--sections", "gemm"]) == code


@pytest.mark.dist
@pytest.mark.parametrize("name", [name for name in gpu_check.SECTIONS if name != "tests"])
def test_sections_run_at_tiny_sizes_on_a_cpu(name):
    found = gpu_check.section(name, tiny=True, limit_s=300)
    assert gpu_check.is_whole(found), found
    assert "error" not in json.dumps(found), "nor anything inside a row"
    assert list(lines({"machine": {"gpu": "", "torch": ""}, "tiny": True, "sections": {name: found}}))


@pytest.fixture
def gpu_named(monkeypatch):
    """A torch that says there is a GPU of this name."""

    def name(text):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: text)

    return name


def test_plans_and_published_rows_are_scaled_to_the_gpu_at_hand(gpu_named):
    gpu_named(H100)
    preset = presets.resolve("llama2_70b_1M").preset
    scaled = gpu_rank._scaled(preset)
    assert (scaled["tgs"], scaled["gpu"]) == (21.8, "A100-SXM4-80GB")
    assert 2 < scaled["factor"] < 3.2, "an H100 has 3.17 times an A100's peak"
    assert scaled["scaled_tgs"] == pytest.approx(21.8 * scaled["factor"])
    assert gpu_rank.forecast(presets.resolve("llama2_7b_4l_32k").preset).memory.tensors_gib > 20


def test_an_unknown_gpu_gets_no_plan_of_another(gpu_named):
    gpu_named("NVIDIA Z9000")
    assert gpu_rank.forecast(presets.resolve("llama2_7b_4l_32k").preset) is None
    assert gpu_rank._scaled(presets.resolve("llama2_70b_1M").preset) is None


def _rank_of_steps(seconds: float):
    rank = object.__new__(gpu_rank.Rank)
    steps = []
    rank.timed = lambda: steps.append(seconds) or seconds
    return rank, steps


@pytest.mark.parametrize(("seconds", "warmed", "timed"), [(0.5, 2, 3), (5.0, 1, 2), (20.0, 1, 1)])
def test_long_steps_are_repeated_less_often(seconds, warmed, timed):
    rank, steps = _rank_of_steps(seconds)
    rank.warm_up(2)
    assert len(steps) == warmed
    assert rank.times_s(3) == [seconds] * timed


def test_a_row_that_fails_is_a_row_with_its_reason():
    def breaks():
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    assert gpu_rank.attempt(breaks) == {"error": "OutOfMemoryError: CUDA out of memory."}


def test_a_peer_that_fails_is_named_and_costs_no_other(monkeypatch):
    turns = iter([0.5, 1.0, 0.4, 1.0])
    monkeypatch.setattr(gpu_peers, "_ours", lambda preset: next(turns))
    monkeypatch.setattr(gpu_peers, "_plain", lambda preset: next(turns))

    def no_nvcc(preset):
        raise RuntimeError("CUDA_HOME does not exist")

    monkeypatch.setattr(gpu_peers, "_recipe", no_nvcc)
    *_, found = gpu_peers.against_peers(presets.resolve("llama2_7b_4l_32k").preset, 2)
    assert found["ratios"] == {gpu_peers.TRANSFORMERS: pytest.approx(2.25)}
    assert found["tgs"][gpu_peers.OURS] == [65536.0, 81920.0]
    assert found["left_out"] == {gpu_peers.ALST: "RuntimeError: CUDA_HOME does not exist"}


def test_every_sample_of_the_events_overhead_is_long_enough_for_a_heartbeat(monkeypatch):
    class Rank:
        device = torch.device("cpu")

        def __init__(self, preset):
            self.steps = 0

        def warm_up(self, steps):
            pass

        def timed(self):
            self.steps += 1
            return 0.3

        def step(self):
            return 1.0

    samples = []
    monkeypatch.setattr(gpu_overhead, "Rank", Rank)
    monkeypatch.setattr(gpu_overhead, "_observed", lambda *_: 0.3)
    monkeypatch.setattr(gpu_overhead, "_pairs", lambda a, b, count: samples.extend([a(), b()]) or {})
    gpu_overhead.events_ratio(presets.resolve("tiny_cpu", ["hardware.num_gpus=1", "parallel.sp=1"]).preset, 1)
    assert min(samples) > 1.0, samples
