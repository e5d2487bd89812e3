"""The sbatch script: what a reviewer reads, and what cannot get into it; reading the scheduler's answers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch import slurm
from tgsbench.launch.nodes import preset_options
from tgsbench.store import run_dir

ROOT = Path("/shared/runs")


def script(name: str = "llama2_70b_1M", sets: tuple[str, ...] = (), **wishes) -> str:
    preset = presets.resolve(name, sets).preset
    return slurm.script(
        preset, preset_options(name, sets, False),
        slurm.JobOptions(python="/venv/bin/python", **wishes), ROOT,
    )  # fmt: skip


def test_a_script_names_nodes_gpus_time_and_starts_one_agent_a_node():
    text = script(
        partition="gpu", account="me", qos="high", env=("NCCL_IB_HCA=mlx5 0",), extra=("constraint=a100",)
    )
    for line in (
        "#SBATCH --nodes=8", "#SBATCH --ntasks-per-node=1", "#SBATCH --gres=gpu:8", "#SBATCH --partition=gpu",
        "#SBATCH --account=me", "#SBATCH --qos=high", "#SBATCH --constraint=a100",
        "#SBATCH --signal=TERM@120", "export NCCL_DEBUG=WARN", "export NCCL_IB_HCA='mlx5 0'",
        "#SBATCH --no-requeue",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "cross 8 nodes" in text
    assert text.splitlines()[-1].strip().startswith("bash -c")
    assert "/venv/bin/python -m tgsbench run --preset llama2_70b_1M --headless" in text


@pytest.mark.parametrize("name", ["llama2_70b_1M", "llama2_7b_8k", "tiny_cpu"])
@pytest.mark.parametrize("container", ["", "nvcr.io#nvidia/pytorch:25.01-py3"])
def test_every_script_is_sound_bash(name, container):
    text = script(name, container=container)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True).stderr == ""


def test_one_node_needs_no_meeting_point_and_a_cpu_preset_no_gpu():
    text = script("tiny_cpu")
    assert "--rendezvous" not in text
    assert "gres" not in text
    assert "NCCL_DEBUG" not in text


def test_the_time_limit_follows_from_the_published_pace():
    preset = presets.resolve("llama2_7b_8k", ["measure.steps=10", "measure.warmup=2"]).preset
    row = presets.load_references()["llama2_7b_8k"][0]
    step_s = preset.tokens_per_step / (row.tgs * preset.world_size)
    limit, why = slurm.time_limit(preset)
    hours, minutes, _ = map(int, limit.split(":"))
    assert 24 * step_s + 900 <= hours * 3600 + minutes * 60 <= 24 * step_s + 900 + 300
    assert "published" in why
    assert slurm.time_limit(presets.resolve("tiny_cpu").preset)[0] == "01:00:00"
    assert re.fullmatch(r"\d+-\d\d:\d\d:00", slurm.time_limit(presets.resolve("llama2_70b_1M").preset)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [("partition", "gpu\n#SBATCH --wrap=evil"), ("account", "a b"), ("time", "$(date)"), ("qos", "`id`")],
)
def test_a_wish_cannot_start_a_directive_or_a_command(key, value):
    with pytest.raises(TgsError, match="may hold"):
        script(**{key: value})


def test_a_presets_name_and_values_are_never_read_by_a_shell(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('extends = "tiny_cpu"\nname = "x$(touch /tmp/evil)"\n')
    with pytest.raises(TgsError, match="preset name"):
        slurm.script(presets.resolve(path).preset, [], slurm.JobOptions(), ROOT)
    sets = ("workload.corpus=file", "workload.file=/data/a b;$(touch evil).json")
    text = script("tiny_cpu", sets, container="img$(touch evil)")
    assert "'workload.file=/data/a b;$(touch evil).json'" in text
    assert "--container-image='img$(touch evil)'" in text


@pytest.mark.parametrize("env", ["A", "A B=1", "1A=2", "=x"])
def test_a_variable_needs_a_name_and_a_value(env):
    with pytest.raises(TgsError, match="KEY=VALUE"):
        script(env=(env,))


def test_what_the_scheduler_says_is_read_and_told_in_one_line():
    job = slurm.parse_job(
        "JobId=12 JobName=x JobState=PENDING Reason=Resources Restarts=1 ExitCode=0:0 "
        "StartTime=2026-01-01T10:00:00 NodeList=(null) Comment=a=b=c"
    )
    assert slurm.describe(job) == (
        "job 12: pending (Resources) expected start 2026-01-01T10:00:00 after 1 requeue"
    )
    assert slurm.parse_job("").state == "UNKNOWN"
    assert slurm.parse_job("JobState=RUNNING Restarts=x NodeList=n[1-2]").nodes == "n[1-2]"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("TIMEOUT", "preempted"),
        ("PREEMPTED", "preempted"),
        ("CANCELLED", "cancelled"),
        ("NODE_FAIL", "exited"),
    ],
)
def test_a_job_that_slurm_ended_hard_is_told_by_its_state(state, status):
    outcome = slurm.outcome_of(slurm.Job("7", state, "why"))
    assert (outcome.status, outcome.reason) == (status, f"Slurm ended job 7: {state} (why)")
    assert slurm.outcome_of(slurm.Job("7", "OUT_OF_MEMORY")).oom_kills == 1


def test_a_jobs_runs_are_found_newest_first(tmp_path):
    preset = presets.resolve("tiny_cpu").preset
    for name in (
        "20260101T000000-tiny_cpu-j7",
        "20260102T000000-tiny_cpu-j7",
        "20260103T000000-tiny_cpu-j77",
    ):
        run = run_dir.create(tmp_path, preset, name)
        (run.path / "run.json").write_text("{}")
    assert [run.run_id[:8] for run in slurm.runs_of(tmp_path, "7")] == ["20260102", "20260101"]


@pytest.mark.parametrize("text", ["abc", "1:2:3:4", "1-", "00:00:00", "-5", "1h", "1-2-3", ""])
def test_a_time_that_sbatch_would_not_read_is_refused(text):
    if not text:
        assert "#SBATCH --time=" in script(time=text), "the default"
        return
    with pytest.raises(TgsError, match="no time limit") as raised:
        script(time=text)
    assert "HH:MM:SS" in raised.value.hint


@pytest.mark.parametrize("text", ["90", "10:00", "04:00:00", "1-12", "1-12:30", "2-00:00:01"])
def test_every_form_of_a_time_limit_is_taken(text):
    assert f"#SBATCH --time={text}\n" in script(time=text)
