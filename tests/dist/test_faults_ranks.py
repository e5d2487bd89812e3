"""A rank dies, raises, hangs or runs out of memory: what the user is told, and how the command ends."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.dist.faulty import Running, faulty_environment, gone, listed, run_with, shown

pytestmark = pytest.mark.dist


def test_a_rank_killed_by_sigkill_is_named_with_its_signal(tmp_path):
    run = Running(tmp_path).until_measuring()
    family = run.family()
    os.kill(run.pids()[1], signal.SIGKILL)
    said = run.finish()
    assert run.process.returncode == 8, said
    assert gone(family, 10)
    row = listed(tmp_path)
    assert (row["status"], row["reason"]) == ("crashed", "rank 1 was killed by SIGKILL")
    document, text = shown(tmp_path)
    assert document["failure"]["rank"] == 1
    assert document["failure"]["host"] == os.uname().nodename
    assert document["tgs"]["n"] >= 2
    assert text.startswith("crashed on rank 1")
    assert "Traceback" not in said


def test_a_rank_that_raises_is_the_root_cause_not_those_that_lost_it(tmp_path):
    done = run_with(tmp_path, rank=1, step=4, do="raise")
    assert done.returncode == 8, done.stderr
    row = listed(tmp_path)
    assert (row["status"], row["reason"]) == ("crashed", "ValueError: told to fail")
    document, text = shown(tmp_path)
    assert document["failure"]["rank"] == 1
    assert "sitecustomize.py" in document["failure"]["traceback"]
    assert text.index("told to fail") < text.index("TGS")
    assert "rank 1" in done.stderr


def test_a_hang_in_a_collective_is_stalled_with_the_stacks_of_all_ranks(tmp_path):
    env = faulty_environment(tmp_path, rank=1, step=4, do="hang")
    env["TORCH_FR_BUFFER_SIZE"] = "200"
    run = Running(tmp_path, "--set", "measure.stall_s=8", env=env)
    said = run.finish()
    assert run.process.returncode == 10, said
    row = listed(tmp_path)
    assert row["status"] == "stalled"
    assert row["reason"].startswith(
        "no rank made progress for 8 s; rank 1 not where the others wait: in _fault"
    )
    assert "; rank 1 in step 4, " in row["reason"]
    assert "; the others wait in micro-step 1 of 2, " in row["reason"]
    document, text = shown(tmp_path)
    assert document["failure"]["rank"] == 1
    files = document["failure"]["files"]
    assert {"stacks/rank00000.txt", "stacks/rank00001.txt"} <= set(files)
    assert "torch/distributed" in (run.folder / "stacks/rank00000.txt").read_text()
    assert "sitecustomize.py" in (run.folder / "stacks/rank00001.txt").read_text()
    assert "rank 0" in text
    assert "rank 1" in text


@pytest.mark.parametrize(
    ("do", "asked", "words"),
    [
        ("cuda_oom", int(2.5 * 2**30), "CUDA out of memory. Tried to allocate 2.50 GiB."),
        ("host_oom", 4 * 2**30, "can't allocate memory"),
    ],
)
def test_out_of_memory_says_how_much_was_asked_for(tmp_path, do, asked, words):
    done = run_with(tmp_path, rank=1, step=3, do=do)
    assert done.returncode == 9, done.stderr
    row = listed(tmp_path)
    assert row["status"] == "oom"
    assert words in row["reason"]
    document, text = shown(tmp_path)
    failure = document["failure"]
    assert failure["bytes_requested"] == asked
    planned = document["prediction"]["memory"]["total_gib"]
    assert failure["forecast"].startswith(f"planned {planned:.2f} GiB a rank, ran out at ")
    assert failure["forecast"].endswith("more than planned")
    assert failure["forecast"] in text
    assert failure["bytes_in_use"] > 2**27
    assert failure["rank"] == 1
    assert "Traceback" in failure["traceback"]


def test_a_nan_makes_the_run_invalid(tmp_path):
    done = run_with(tmp_path, rank=0, step=4, do="nan")
    assert done.returncode == 11, done.stderr
    row = listed(tmp_path)
    assert row["status"] == "invalid"
    assert row["reason"] == "the loss of step 4 is nan"
    assert "training.lr" in shown(tmp_path)[0]["failure"]["hint"]


def test_a_segmentation_fault_is_a_signal_not_a_mystery(tmp_path):
    done = run_with(tmp_path, rank=0, step=3, do="segfault")
    assert done.returncode == 8, done.stderr
    assert listed(tmp_path)["reason"] == "rank 0 was killed by SIGSEGV"
    (folder,) = (tmp_path / "runs").glob("*/")
    assert "Segmentation fault" in (folder / "log" / "rank00000.log").read_text()


def test_a_rank_that_leaves_without_a_word_is_named(tmp_path):
    done = run_with(tmp_path, rank=1, step=3, do="exit")
    assert done.returncode == 8, done.stderr
    assert listed(tmp_path)["reason"] == "rank 1 ended with exit code 3 and without a word"


def test_a_rank_that_leaves_with_exit_code_0_before_its_work_is_done_is_noticed_at_once(tmp_path):
    done = run_with(tmp_path, "--set", "measure.stall_s=10000", rank=1, step=3, do="exit_0")
    assert done.returncode == 8, done.stderr
    document = shown(tmp_path)[0]
    assert (document["status"], document["failure"]["rank"]) == ("crashed", 1)
    assert "rank 1 ended with exit code 0 before its work was done" in document["failure"]["reason"]


def test_a_rank_in_which_something_calls_exit_says_so(tmp_path):
    done = run_with(tmp_path, rank=1, step=3, do="sys_exit_0")
    assert done.returncode == 8, done.stderr
    assert listed(tmp_path)["reason"] == "SystemExit: 0"
    assert "sitecustomize.py" in shown(tmp_path)[0]["failure"]["traceback"]


def test_a_rank_that_cannot_import_its_engine_says_so(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transformers.py").write_text("raise ImportError('this transformers is broken')")
    env = faulty_environment(tmp_path)
    env["PYTHONPATH"] = f"{tmp_path / 'broken'}:{env['PYTHONPATH']}"
    run = Running(tmp_path, env=env)
    said = run.finish()
    assert run.process.returncode == 8, said
    row = listed(tmp_path)
    assert (row["status"], row["reason"]) == ("crashed", "ImportError: this transformers is broken")
    assert "transformers.py" in json.dumps(shown(tmp_path)[0]["failure"]["traceback"])
