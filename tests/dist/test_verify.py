"""`tgsbench verify` as a user runs it: what it says of sound builds, and of builds broken on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest

from tests.contract.cli import ROOT, environment, tgsbench
from tests.dist.evidence import BROKEN
from tests.dist.faulty import gone, wait_for
from tgsbench.schema.verify import Verification

pytestmark = pytest.mark.dist
ALL = {
    "oracle", "update", "parity", "labels", "tokens", "all_to_all", "reduction", "mask", "causality",
    "determinism", "engines",
}  # fmt: skip


def verify(home, *args, build="") -> tuple[subprocess.CompletedProcess[str], Verification]:
    """Run `tgsbench verify --json ARGS` on a build with these faults."""
    env = dict(environment(home), TGSBENCH_TEST_BUILD=build)
    if build:
        env["PYTHONPATH"] = os.pathsep.join([str(BROKEN), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tgsbench", "verify", "--json", *args],
        cwd=home, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.stdout, done.stderr
    return done, msgspec.convert(json.loads(done.stdout), Verification)


def names(found: Verification, status: str) -> set[str]:
    return {check.name for check in found.checks if check.status == status}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    pytest.importorskip("deepspeed")
    home = tmp_path_factory.mktemp("both")
    return verify(home, "--preset", "tiny_cpu", "--engine", "fsdp2", "--engine", "deepspeed")


@pytest.mark.parametrize("engine", ["fsdp2", "deepspeed"])
def test_each_check_passes_on_a_sound_build(both, engine):
    _, found = both
    own = {check.name: check for check in found.checks if check.engine == engine}
    assert set(own) == ALL - {"engines"}
    assert {check.status for check in own.values()} == {"passed"}
    assert 0 < own["parity"].value <= own["parity"].limit == 2e-6
    assert own["parity"].worst.startswith("gradient of ") or own["parity"].worst == "loss"
    assert own["tokens"].value == 20 * 2 * 384, "20 steps, accumulation 2, length 384"
    assert own["determinism"].value == 0.0
    assert own["mask"].value == 0.0


def test_both_engines_take_the_same_20_steps(both):
    done, found = both
    (pair,) = (check for check in found.checks if check.name == "engines")
    assert (pair.engine, pair.status) == ("fsdp2 : deepspeed", "passed")
    assert pair.value <= pair.limit == 2e-6
    assert done.returncode == 0
    assert found.passed
    assert found.engines == ["fsdp2", "deepspeed"]
    assert (found.schema_version, found.num_failed, found.num_skipped) == (1, 0, 0)


def test_narration_names_what_is_being_done_and_stdout_holds_the_document_alone(both):
    done, _ = both
    assert done.stdout.startswith("{")
    for word in ("importing torch", "20 optimizer steps", "document mask", "passed: determinism"):
        assert word in done.stderr


TINY = ("--preset", "tiny_cpu", "--engine", "fsdp2")
FEW_KV = (
    *TINY, "--set", "model.num_kv_heads=2", "--set", "hardware.num_gpus=4", "--set", "parallel.sp=4",
    "--set", "training.accumulation=1",
)  # fmt: skip
DP = ("--preset", "llama2_7b_8k", "--engine", "fsdp2")

BUILDS = {
    "labels_shifted_inside_the_shard": (TINY, {"oracle", "labels", "parity"}),
    "kv_heads_wrongly_repeated": (FEW_KV, {"oracle", "parity"}),
    "sp_silently_1": (TINY, {"oracle", "parity", "labels", "tokens", "all_to_all"}),
    "tokens_fed_twice": (TINY, {"oracle", "parity", "labels", "tokens"}),
    "gradients_divided_by_dp": (DP, {"oracle", "parity"}),
    "targets_two_ahead,mask_ignored,all_to_alls_sent_again,noise": (
        TINY,
        {"oracle", "labels", "mask", "all_to_all", "determinism"},
    ),
}
"""Faults of a build, what is verified, the checks that must fail and no other but the weights' update.

Clipping hides a gradient that is too large as a whole from the update.
"""


@pytest.mark.parametrize("build", BUILDS)
def test_a_broken_build_is_caught_by_the_checks_that_should(tmp_path, build):
    args, must_fail = BUILDS[build]
    done, found = verify(tmp_path, *args, build=build)
    assert done.returncode == 16
    assert not found.passed
    assert names(found, "failed") - {"update"} == must_fail, found.checks
    for check in found.checks:
        assert check.status != "failed" or check.worst, "the worst place is named"


def test_engines_that_part_ways_are_caught_without_being_asked_to_compare(tmp_path):
    pytest.importorskip("deepspeed")
    done, found = verify(tmp_path, "--preset", "tiny_cpu", build="learning_rate_halved")
    assert done.returncode == 16
    assert names(found, "failed") == {"engines", "oracle", "update"}
    (pair,) = (check for check in found.checks if check.name == "engines")
    assert pair.engine == "fsdp2 : deepspeed"
    assert pair.worst.startswith("step ")


def test_a_build_whose_ranks_crash_proves_nothing_and_says_why(tmp_path):
    done, found = verify(tmp_path, *TINY, build="one_rank_raises")
    assert done.returncode == 16
    assert names(found, "failed") == ALL - {"engines"}
    assert {check.measured for check in found.checks if check.status == "failed"} == {"not run"}
    assert "rank 1: ValueError: told to fail" in found.checks[0].note


def test_ctrl_c_leaves_no_rank_and_no_folder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tgsbench", "verify", "--preset", "tiny_cpu", "--engine", "fsdp2"],
        cwd=tmp_path, env=dict(environment(tmp_path), TMPDIR=str(tmp_path)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: list(tmp_path.glob("tgsbench-verify-*/*/events/rank00001.jsonl")))
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert gone(family, 10)
    assert not list(tmp_path.glob("tgsbench-verify-*"))


def test_the_table_says_pass_and_skip_in_words_and_names_the_reason(tmp_path):
    done = tgsbench(tmp_path, "verify", "--preset", "llama3_1b_8k", "--engine", "fsdp2")
    assert done.returncode == 0, done.stderr
    assert "✓ pass" in done.stdout
    assert "- skip" in done.stdout
    assert "one rank in this preset" in " ".join(done.stdout.split())
    assert "on a shrunken model" in done.stdout
    assert "\x1b[" not in done.stdout
