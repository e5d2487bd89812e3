"""A real run, from the preset to the stored result."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.contract.cli import SMALL, environment, tgsbench, tgsbench_json
from tgsbench.schema import spans

pytestmark = pytest.mark.dist

FIELDS = {
    "schema_version", "status", "preset", "engine", "device", "world_size", "dp", "sp", "seq_len",
    "document_mask", "attention", "checkpointing", "corpus", "tgs", "tflops", "mfu", "step_s", "mem",
    "tokens_per_step", "loss", "packing", "integrity", "reference", "run_dir", "environment",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("run")
    words = ("--preset", "tiny_cpu", "--json", "--steps", "8", "--set", "engine.head_parts=2")
    done = tgsbench(home, "run", *words, *SMALL)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout), done


def test_json_is_exactly_one_document_and_narration_goes_to_stderr(finished):
    _, document, done = finished
    assert set(document) >= FIELDS
    assert "measure" in done.stderr
    assert "step 10/10" in done.stderr


def test_the_result_measures_what_it_says(finished):
    _, document, _ = finished
    assert (document["status"], document["engine"], document["device"]) == ("ok", "fsdp2", "cpu")
    assert (document["world_size"], document["dp"], document["sp"], document["seq_len"]) == (2, 1, 2, 256)
    assert document["tgs"]["n"] == 8 == len(document["tgs"]["samples"])
    low, high = document["tgs"]["ci95"]
    assert low <= document["tgs"]["median"] <= high
    assert set(document["tflops"]) == {"xtuner", "model", "palm", "hardware"}
    assert document["mfu"] is None
    assert document["mem"]["kind"] == "rss"
    assert document["mem"]["peak_gib"] > 0.05
    assert document["tokens_per_step"] == 512


def test_tensorboard_gets_its_file_after_the_run(finished):
    pytest.importorskip("tensorboard")
    home, document, _ = finished
    assert len(list((home / document["run_dir"] / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_integrity_counts_distinct_tokens_and_all_to_alls(finished):
    integrity = finished[1]["integrity"]
    assert integrity["tokens_ok"]
    assert integrity["a2a_ok"]
    assert integrity["tokens_seen"] == 8 * 512
    # k and v together, q and the output each in two parts of the heads
    calls = 1 + 2 + 2
    # 1 layer x 2 passes (selective: nothing again) x calls x 2 micro-steps x 2 ranks x 8 steps
    assert integrity["a2a_calls"] == 1 * 2 * calls * 2 * 2 * 8


def test_tgs_follows_from_the_events(finished):
    home, document, _ = finished
    (run,) = (path for path in (home / "runs").iterdir() if path.is_dir())
    steps: dict[int, list[dict]] = {}
    for path in (run / "events").iterdir():
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["type"] == "step" and event.get("phase", "measure") == "measure":
                steps.setdefault(event["step"], []).append(event)
    samples = [
        sum(e["tokens"] for e in ranks) / (2 * max(e["step_s"] for e in ranks)) for ranks in steps.values()
    ]
    assert document["tgs"]["samples"] == pytest.approx(samples)


def test_runs_and_show_find_it_again(finished):
    home, document, _ = finished
    (row,) = tgsbench_json(home, "runs", "--json")
    assert (row["status"], row["tgs"]) == ("ok", document["tgs"]["median"])
    shown = tgsbench_json(home, "show", "latest", "--json")
    assert shown["tgs"] == document["tgs"]
    assert "distinct tokens" in tgsbench(home, "show", row["run_id"][-4:]).stdout


def test_a_lost_result_is_rebuilt_from_the_events(finished):
    home, document, _ = finished
    (run,) = (path for path in (home / "runs").iterdir() if path.is_dir())
    stored = (run / "result.json").rename(run / "result.kept")
    rebuilt = tgsbench_json(home, "show", "latest", "--json")
    stored.rename(run / "result.json")
    assert rebuilt["tgs"] == document["tgs"]


def test_a_reference_preset_rehearses_with_its_shape(tmp_path):
    document = tgsbench_json(
        tmp_path, "run", "--preset", "llama2_70b_1M", "--rehearse", "--json", "--steps", "2", "--warmup", "1"
    )
    assert document["rehearsal_of"] == "llama2_70b_1M"
    assert (document["sp"], document["accumulation"], document["checkpointing"]) == (2, 2, "full")
    assert document["reference"]["verdict"] == "not comparable"
    assert "rehearsal" in document["reference"]["reasons"][0]
    assert document["status"] == "ok"


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _wait_for(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.1)


def test_ctrl_c_leaves_no_rank_and_keeps_what_was_measured(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tgsbench",
            "run",
            "--preset",
            "tiny_cpu",
            "--headless",
            "--steps",
            "100000",
            *SMALL,
        ],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    events = tmp_path / "runs"
    # Two steps of warm-up, then at least two that count.
    _wait_for(
        lambda: any(
            p.read_bytes().count(b'"type":"step"') >= 4 for p in events.glob("*/events/rank00000.jsonl")
        )
    )
    family = _descendants(process.pid)
    assert len(family) >= 3
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    (row,) = tgsbench_json(tmp_path, "runs", "--json")
    assert row["status"] == "cancelled"
    assert row["tgs"] > 0
    (run,) = (path for path in events.iterdir() if path.is_dir())
    assert os.listdir(run / "events") != []


def test_profiled_steps_are_steps_of_their_own_and_the_capture_is_taken_in(tmp_path):
    document = tgsbench_json(
        tmp_path, "run", "--preset", "tiny_cpu", "--json", "--steps", "3", "--profile", "timeline", *SMALL
    )
    assert document["tgs"]["n"] == 3
    assert document["integrity"]["tokens_seen"] == 3 * 512
    profile = document["profile"]
    assert profile["num_steps"] == 3
    assert profile["over_measured"] > 0
    assert [trace["rank"] for trace in profile["traces"]] == [0, 1]
    assert [trace["steps"] for trace in profile["traces"]] == [[6, 7], [6, 7]]
    assert all(trace["num_bytes"] > 10_000 for trace in profile["traces"])
    (run,) = (tmp_path / "runs").iterdir()
    assert len(list((run / "profile").glob("*.pt.trace.json.gz"))) == 2
    assert not (run / "staging").exists()


@pytest.mark.parametrize("engine", ["fsdp2", "deepspeed"])
def test_both_engines_mark_the_same_parts(tmp_path, engine):
    absent = {spans.RING, spans.ROUTER, spans.DISPATCH, spans.COMBINE, spans.EXPERTS, spans.SHARED_EXPERT}
    absent |= {spans.LINEAR_ATTENTION}
    flags = ("--json", "--steps", "1", "--profile", "hotspots", "--engine", engine, *SMALL)
    tgsbench_json(tmp_path, "run", "--preset", "tiny_cpu", *flags)
    (trace,) = (tmp_path / "runs").glob("*/profile/*_0000*.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {event["name"] for event in events} >= set(spans.ALL) - absent
    found = tgsbench_json(tmp_path, "profile", "--json")
    groups = {(c["name"], c["group"]) for c in found["collectives"]}
    assert groups >= {("all_to_all", "sp"), ("all_gather", "fsdp"), ("reduce_scatter", "fsdp")}


def test_an_unknown_recipe_is_refused_before_anything_starts(tmp_path):
    done = tgsbench(tmp_path, "run", "--preset", "tiny_cpu", "--headless", "--profile", "hotspot")
    assert done.returncode == 4
    assert "nearest: hotspots" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("module", ["click", "tgsbench.cli.run"])
def test_ctrl_c_during_the_imports_says_interrupted_and_ends_with_130(tmp_path, module):
    """A finder sends SIGINT when a module is imported: before any command listens, and after."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    env = environment(tmp_path)
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    argv = [sys.executable, "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--headless"]
    # A shell starts what it puts into the background with SIGINT ignored; the terminal's Ctrl-C is not.
    done = subprocess.run(
        argv, cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
