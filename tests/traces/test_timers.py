"""A real run's shares agree with timers placed around attention and all-to-all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cli import ROOT, environment, tgsbench_json

pytestmark = pytest.mark.dist
INJECT = Path(__file__).parent / "inject"


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A `tiny_cpu --profile hotspots` run: what it printed, rank 0's profile, the timers' mean by part."""
    home = tmp_path_factory.mktemp("timers")
    env = environment(home) | {"TGSBENCH_TEST_TIMERS": str(home / "timers.jsonl")}
    env["PYTHONPATH"] = os.pathsep.join([str(INJECT), str(ROOT)])
    argv = [sys.executable, "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--headless"]
    done = subprocess.run(
        # Layers of Phi-3 run as modules, which wait for exchanges where they are made: a timer sees all.
        [*argv, "--profile", "hotspots", "--steps", "3", "--set", "model.family=phi3"],
        cwd=home, env=env, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = tgsbench_json(home, "profile", "latest", "--json")
    rank = next(rank for rank in found["ranks"] if rank["rank"] == 0)
    lines = [json.loads(line) for line in (home / "timers.jsonl").read_text().splitlines()]
    profiled = [line for line in lines if line["phase"] == "profile"][-len(rank["steps"]) :]
    parts = ("attention_fwd", "attention_bwd", "all_to_all")
    timers_ms = {part: 1e3 * sum(line[part] for line in profiled) / len(profiled) for part in parts}
    return done.stdout, rank, timers_ms


@pytest.mark.parametrize("part", ["attention_fwd", "attention_bwd", "all_to_all"])
def test_a_part_is_what_a_timer_around_it_measures(captured, part):
    _, rank, timers_ms = captured
    assert timers_ms[part] > 1.0
    assert rank["parts_ms"][part] == pytest.approx(timers_ms[part], rel=0.1)


def test_the_run_ends_with_its_shares(captured):
    stdout, rank, timers_ms = captured
    line = next(line for line in stdout.splitlines() if line.startswith("hotspots"))
    assert "attention " in line
    assert "all-to-all " in line
    attention_ms = timers_ms["attention_fwd"] + timers_ms["attention_bwd"]
    share = rank["shares"]["attention_fwd"] + rank["shares"]["attention_bwd"]
    assert share == pytest.approx(attention_ms / rank["step_ms"], rel=0.1)


def test_parts_add_up(captured):
    _, rank, _ = captured
    assert sum(rank["parts_ms"].values()) == pytest.approx(rank["step_ms"], rel=1e-3)
