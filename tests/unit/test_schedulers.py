"""A scheduler is one module and one line of the registry: a toy one prints, submits and follows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tgsbench import presets
from tgsbench.errors import ExitCode
from tgsbench.launch import schedulers

TOY = """
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from tests.unit.stored import store_run
from tgsbench.errors import TgsError
from tgsbench.launch.nodes import place
from tgsbench.launch.scheduler import JobState
from tgsbench.schema.run import Outcome
from tgsbench.store.run_dir import RunDir


class ToyOptions(Struct, frozen=True, kw_only=True):
    colour: Annotated[str, Meta(description="Colour of the pods.", extra={"metavar": "NAME"})] = "red"
    num_pods: Annotated[int, Meta(extra={"flag": "--pods"})] = 1
    label: tuple[str, ...] = ()
    eager: bool = False


class Toy:
    title, help, list_hint = "The toy", "Print a preset's pods.", "`toyctl get` lists yours"
    options = ToyOptions

    def render(self, preset, chosen, wishes, root):
        spread = place(preset, wishes.num_pods)
        return f"{spread.nnodes} x {spread.nproc_per_node} {wishes} {' '.join(chosen)}\\n"

    def submit(self, text, preset, root):
        job_id = "lost" if "eager=True" in text else "7"
        if job_id == "7":
            run = store_run(root, f"20260101T000000-{preset.name}-{job_id}", preset)
            (run.path / "result.json").unlink()
        (root / "pods.yaml").parent.mkdir(exist_ok=True)
        (root / "pods.yaml").write_text(text)
        return job_id, root / "pods.yaml"

    def look(self, job_id):
        if job_id == "none":
            return None
        return JobState(job_id, f"pod {job_id} evicted", True, Outcome(status="preempted", reason="evicted"))

    def cancel(self, job_id):
        raise TgsError(f"no pod {job_id}")

    def runs_of(self, root, job_id):
        return [RunDir(path) for path in sorted(root.glob(f"*-{job_id}"))]

    def log_path(self, root, job_id):
        return root / f"{job_id}.txt"


SCHEDULER = Toy()
"""
PROGRAM = """
import sys
from tgsbench.launch.schedulers import SCHEDULERS, Registered
SCHEDULERS["toy"] = Registered("toy_scheduler", "A preset's pods.")
from tgsbench.cli.main import main
sys.argv = ["tgsbench", *sys.argv[1:]]
main()
"""


@pytest.fixture
def toy(tmp_path):
    """Calls tgsbench where a toy scheduler is registered."""
    (tmp_path / "toy_scheduler.py").write_text(TOY)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        paths = f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}"
        argv = [sys.executable, "-c", f"{paths}\n{PROGRAM}", *words]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_it_is_a_command_with_its_own_options(toy):
    assert "A preset's pods." in toy("--help").stdout
    text = " ".join(toy("toy", "--help").stdout.split())
    assert "Print a preset's pods." in text
    for words in ("--colour NAME Colour of the pods.", "--pods INTEGER", "--label", "--eager", "--submit"):
        assert words in text


def test_it_prints_what_it_rendered_and_submits_nothing(toy, tmp_path):
    words = ("--pods", "2", "--label", "a=b", "--label", "c=d", "--colour", "blue")
    done = toy("toy", "--preset", "tiny_cpu", "--set", "measure.steps=3", *words)
    assert done.stdout == (
        "2 x 1 ToyOptions(colour='blue', num_pods=2, label=('a=b', 'c=d'), eager=False) "
        "--preset tiny_cpu --set measure.steps=3\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_submitted_job_is_followed_to_its_result(toy, tmp_path):
    (tmp_path / "runs").mkdir()
    done = toy("toy", "--preset", "tiny_cpu", "--submit", "--json")
    assert "job 7 submitted: " in done.stderr
    assert "pod 7 evicted" in done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], done.returncode) == ("preempted", ExitCode.PREEMPTED)
    assert document["failure"]["reason"] == "evicted"
    assert toy("toy", "--follow", "7", "--json").returncode == ExitCode.PREEMPTED


def test_a_job_that_never_ran_or_is_unknown_says_where_to_look(toy, tmp_path):
    (tmp_path / "runs").mkdir()
    lost = toy("toy", "--preset", "tiny_cpu", "--submit", "--eager")
    assert "pod lost evicted: it ended before any rank started" in lost.stderr
    assert "lost.txt" in lost.stderr
    unknown = toy("toy", "--follow", "none")
    assert "The toy knows no job none" in unknown.stderr
    assert "`toyctl get` lists yours" in unknown.stderr
    assert "no pod 9" in toy("toy", "--cancel", "9").stderr


def test_a_job_is_left_alone_when_asked_so(toy, tmp_path):
    (tmp_path / "runs").mkdir()
    done = toy("toy", "--preset", "tiny_cpu", "--submit", "--detach")
    assert (done.stdout, done.returncode) == ("7\n", 0)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_registered_scheduler_renders_a_preset_with_its_defaults(name, tmp_path):
    scheduler = schedulers.find(name)
    preset = presets.resolve("llama2_70b_1M").preset
    text = scheduler.render(preset, ["--preset", preset.name], scheduler.options(), tmp_path)
    assert "tgsbench run --preset llama2_70b_1M" in text
