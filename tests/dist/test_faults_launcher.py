"""The launcher is killed, asked to end, cut off from its reader, or started twice; no rank is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests.contract.cli import environment, tgsbench, tgsbench_json
from tests.dist.faulty import Running, faulty_environment, gone, listed, shown, wait_for

pytestmark = pytest.mark.dist


@pytest.fixture
def running(tmp_path):
    """A run that measures, and what must be gone after its end."""
    run = Running(tmp_path).until_measuring()
    family = run.family()
    yield run, family
    for process in [*family, run.process]:
        try:
            process.kill()
        except (psutil.Error, ProcessLookupError):
            continue


def test_no_rank_outlives_a_killed_launcher(running):
    run, family = running
    os.kill(run.process.pid, signal.SIGKILL)
    assert gone(family, 10)
    row = listed(run.home)
    assert (row["status"], row["reason"]) == ("crashed", "the launcher was killed; its ranks ended with it")
    assert row["tgs"] > 0


def test_no_rank_outlives_a_killed_agent(running):
    run, family = running
    (agent,) = psutil.Process(run.process.pid).children()
    os.kill(agent.pid, signal.SIGKILL)
    assert gone(family, 10)
    run.finish()
    assert run.process.returncode == 8
    row = listed(run.home)
    assert row["status"] == "crashed"
    assert row["reason"] == "the agent that started the ranks was killed by SIGKILL"


def test_sigterm_with_a_grace_period_keeps_what_was_measured(running):
    run, family = running
    run.process.send_signal(signal.SIGTERM)
    said = run.finish(timeout_s=30)  # Slurm's KillWait: what is left after 30 s gets SIGKILL
    assert run.process.returncode == 12, said
    assert gone(family, 1)
    row = listed(run.home)
    assert (row["status"], row["reason"]) == ("preempted", "SIGTERM: asked to end; steps so far are kept")
    assert shown(run.home)[0]["tgs"]["n"] >= 2


def test_sigterm_to_every_process_at_once_is_preempted_too(running):
    run, family = running
    for process in [*family, psutil.Process(run.process.pid)]:
        process.send_signal(signal.SIGTERM)
    said = run.finish(timeout_s=30)
    assert run.process.returncode == 12, said
    assert listed(run.home)["status"] == "preempted"


def test_sigterm_to_the_ranks_alone_is_preempted_too(running):
    run, _ = running
    for pid in run.pids().values():
        os.kill(pid, signal.SIGTERM)
    said = run.finish(timeout_s=40)
    assert run.process.returncode == 12, said
    assert listed(run.home)["status"] == "preempted"


def test_a_closed_pipe_does_not_end_the_run(tmp_path):
    run = Running(tmp_path, steps=20).until_measuring()
    run.process.stdout.close()
    assert run.process.wait(timeout=120) == 0
    row = listed(tmp_path)
    assert (row["status"], shown(tmp_path)[0]["tgs"]["n"]) == ("ok", 20)


def test_a_killed_ui_leaves_the_run_unharmed(tmp_path):
    """The UI's way to start a run, from a process that is killed as a UI may be."""
    starter = (
        "import sys, time\nfrom tgsbench import presets\nfrom tgsbench.launch.detached import Supervisor\n"
        "from tgsbench.launch import local\nfrom tgsbench.store import run_dir\n"
        "preset = presets.resolve('tiny_cpu', sys.argv[1:]).preset\n"
        "run = run_dir.create(run_dir.runs_root(None), preset)\n"
        "local.prepare_run(run, preset)\nprint(Supervisor(run).pid, flush=True)\ntime.sleep(1000)"
    )
    sets = ["measure.steps=12", "model.num_layers=1", "model.vocab_size=512", "workload.seq_len=256"]
    ui = subprocess.Popen(
        [sys.executable, "-c", starter, *sets],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    supervisor = psutil.Process(int(ui.stdout.readline()))
    folder = next((tmp_path / "runs").iterdir())
    wait_for(lambda: any(b'"hello"' in path.read_bytes() for path in folder.glob("events/*")))
    ui.kill()
    ui.wait()
    assert supervisor.is_running()
    assert gone([supervisor], 180)
    row = listed(tmp_path)
    assert (row["status"], row["tgs"] > 0) == ("ok", True)


def test_one_folder_is_run_by_one_supervisor_and_once(running):
    run, _ = running
    second = tgsbench(run.home, "supervise", str(run.folder))
    assert second.returncode == 7
    assert "is being run by another process" in second.stderr
    run.process.send_signal(signal.SIGINT)
    run.finish()
    third = tgsbench(run.home, "supervise", str(run.folder))
    assert third.returncode == 7
    assert "was run already" in third.stderr
    assert listed(run.home)["status"] == "cancelled"


def test_two_runs_at_once_on_one_machine_do_not_meet(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # The same fixed port in the environment, as a scheduler's prologue may set it.
    runs = []
    for name in "ab":
        env = dict(environment(tmp_path / name), MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
        runs.append(Running(tmp_path / name, env=env, steps=4))
    for run in runs:
        said = run.finish(240)
        assert run.process.returncode == 0, said
        assert listed(run.home)["status"] == "ok"


def test_a_run_on_one_machine_listens_on_the_loopback_address_only(running):
    run, family = running
    listening = [
        connection.laddr.ip
        for process in [*family, psutil.Process(run.process.pid)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_wall_clock_that_jumps_changes_no_figure(tmp_path, seconds):
    env = faulty_environment(tmp_path, do="clock", seconds=seconds)
    run = Running(tmp_path, env=env, steps=12).until_measuring()
    assert json.loads(
        subprocess.run(
            [sys.executable, "-m", "tgsbench", "runs", "--json"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            check=True,
        ).stdout
    )[0]["status"] in ("running", "ok")
    said = run.finish()
    assert run.process.returncode == 0, said
    document = shown(tmp_path)[0]
    assert (document["status"], document["tgs"]["n"]) == ("ok", 12)
    assert all(0 < sample < 60 for sample in document["step_s"]["samples"])


def test_a_port_in_use_is_said_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tgsbench(
            tmp_path, "run", "--preset", "tiny_cpu", "--headless", "--nodes", "localhost,other",
            "--node-rank", "0", "--rendezvous", f"127.0.0.1:{port}", "--name", "r", "--set", "hardware.gpus_per_node=1",
        )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "in use" in done.stderr
    assert tgsbench_json(tmp_path, "runs", "--json") == []


def test_a_run_on_a_disturbed_machine_says_so(tmp_path):
    code = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(len(os.sched_getaffinity(0)))]
    try:
        run = Running(tmp_path, "--set", "measure.steps=100000").until_measuring()
        wait_for(
            lambda: any(b"while it measured" in p.read_bytes() for p in tmp_path.glob("runs/*/events/node*"))
        )
        run.process.send_signal(signal.SIGINT)
        said = run.finish()
    finally:
        for other in others:
            other.kill()
    assert "warning: other processes used" in said
    document = shown(tmp_path)[0]
    start, during, mean = document["disturbances"]
    assert "while the ranks started" in start
    assert "(pid " in start
    assert "while it measured" in during
    assert "on average" in mean
    assert set(document["disturbances"]) <= set(document["warnings"])
