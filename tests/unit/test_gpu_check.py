"""gpu-check's orchestration and report, without a GPU."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_report import best_published, lines


def _report(mfu: float, ratio: float) -> dict:
    row = {
        "preset": "llama2_7b_4l_32k", "checkpointing": "none", "kernel": "cudnn 9", "tgs": 5e4, "mfu": mfu,
        "kernel_reason": "measured", "step_s": [0.6], "peak_gib": 31.0, "planned_gib": 30.0,
        "shares": {"gemm": 0.6},
    }  # fmt: skip
    return {
        "machine": {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0"},
        "tiny": False,
        "sections": {
            "train": {"rows": [row], "total_s": 60.0},
            "selective": {"ratio": ratio, "total_s": 50.0},
            "gemm": {"error": "CUDA error"},
            "long": {"skipped": "3 s left, it takes about 80 s"},
            "tests": {"counts": {"passed": 43}, "total_s": 30.0},
        },
    }


def test_targets_are_said_to_be_reached_or_not():
    good, bad = ("\n".join(lines(_report(mfu, ratio))) for mfu, ratio in ((0.51, 1.2), (0.49, 1.1)))
    assert "50 %: reached" in good and "1.15: reached" in good
    assert "50 %: NOT reached" in bad and "1.15: NOT reached" in bad
    assert "+3.3 %" in good, "peak memory beside the plan"


def test_what_failed_or_was_not_run_is_said():
    text = "\n".join(lines(_report(0.5, 1.2)))
    assert "gemm: FAILED\nCUDA error" in text
    assert "long: not run: 3 s left" in text
    assert "43 passed" in text


def test_published_attention_speeds_are_those_of_the_table():
    best = best_published()
    assert best["FA3"] > best["cuDNN"] > best["FA2"] > 300


def test_a_section_that_overruns_the_budget_is_skipped_and_the_rest_is_kept(monkeypatch):
    monkeypatch.setattr(gpu_check, "section", lambda name, tiny, timeout_s: {"ran": name})
    report = {"sections": {"gemm": {"old": 1}}}
    gpu_check.run_all(
        ["attention", "emulate"], report, budget_s=gpu_check.TYPICAL_S["attention"] + 1, tiny=False
    )
    assert report["sections"]["attention"]["ran"] == "attention"
    assert "takes about" in report["sections"]["emulate"]["skipped"]
    assert report["sections"]["gemm"] == {"old": 1}


def test_the_result_is_named_after_gpu_and_date(tmp_path):
    path = gpu_check.store(_report(0.5, 1.2), tmp_path)
    assert path.name.startswith("nvidia-h100-80gb-hbm3-20")
    assert json.loads(path.read_text())["machine"]["torch"] == "2.11.0"


@pytest.mark.dist
@pytest.mark.parametrize("name", [name for name in gpu_check.SECTIONS if name != "tests"])
def test_sections_run_at_tiny_sizes_on_a_cpu(name):
    found = gpu_check.section(name, tiny=True, timeout_s=120)
    assert "error" not in found, found


def test_a_python_without_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"has no torch; name the Python that has: make gpu-check PYTHON="):
        gpu_check.machine()
