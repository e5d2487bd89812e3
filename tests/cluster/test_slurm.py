"""Jobs on a real Slurm: submitted, followed, cancelled, preempted, requeued, and stored like any other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cluster.slurm_site import SlurmSite
from tests.contract.cli import SMALL, environment
from tests.dist.faulty import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.dist]


@pytest.fixture(scope="module")
def site():
    """One Slurm for all tests of this file."""
    slurm = SlurmSite()
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


@pytest.fixture
def user(site, tmp_path):
    """A user of the cluster with a home of their own; no job of theirs outlives the test."""
    yield User(site, tmp_path)
    site.call("scancel", "--user=root")
    wait_for(lambda: not site.call("squeue", "-h").strip(), timeout_s=90)


class User:
    """Runs tgsbench on the login node."""

    def __init__(self, site, home) -> None:
        self.site, self.home = site, home
        self.env = {**environment(home), **site.env}

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tgsbench", *args],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def submit(self, *args: str) -> str:
        """Submit the tiny preset detached; returns the job's number."""
        done = self.call("slurm", "--preset", "tiny_cpu", *SMALL, "--submit", "--detach", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def rows(self) -> list[dict]:
        return json.loads(self.call("runs", "--json").stdout)

    def measures(self, number: int = 1) -> bool:
        """Do this many runs of the user have steps?"""
        events = [path.read_bytes() for path in self.home.glob("runs/*/events/rank00000.jsonl")]
        return sum(data.count(b'"type":"step"') >= 4 for data in events) >= number


def test_a_job_goes_from_sbatch_to_a_stored_result_and_is_followed(user):
    done = user.call(
        "slurm", "--preset", "tiny_cpu", *SMALL, "--set", "measure.steps=4", "--submit", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["tgs"]["n"]) == ("ok", 4)
    assert "submitted" in done.stderr
    assert "running on n" in done.stderr
    assert "step 6/6" in done.stderr
    (row,) = user.rows()
    assert row["status"] == "ok"
    assert row["run_id"].endswith("-j" + done.stderr.split("job ")[1].split()[0])


def test_a_job_over_two_nodes_is_one_run(user):
    options = ["--set", "hardware.num_gpus=4", "--set", "measure.steps=2"]
    done = user.call("slurm", "--preset", "tiny_cpu", *SMALL, *options, "--submit", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["world_size"]) == ("ok", 4)
    assert sorted(document["hosts"]) == ["n1", "n2"]  # c10d numbers nodes by address, here the same, then pid
    assert document["sp_spans_nodes"] is False


def test_a_waiting_job_says_why_and_a_cancelled_one_keeps_what_it_measured(user):
    first = user.submit("--set", "measure.steps=100000", "--set", "hardware.num_gpus=4")
    wait_for(user.measures)
    second = user.start("slurm", "--preset", "tiny_cpu", *SMALL, "--submit")
    line = ""
    while "pending (" not in line:
        line = second.stderr.readline()
        assert line, "the follower said nothing of a reason"
    assert user.call("slurm", "--cancel", first).returncode == 0
    followed = user.call("slurm", "--follow", first)
    assert followed.returncode == 130, followed.stderr
    second.communicate(timeout=300)
    assert second.returncode == 0
    newest, oldest = user.rows()
    assert (oldest["status"], newest["status"]) == ("cancelled", "ok")
    assert oldest["tgs"] > 0


def test_sigterm_from_the_scheduler_makes_the_run_preempted(user):
    job = user.submit("--set", "measure.steps=100000")
    wait_for(user.measures)
    user.site.call("scancel", "--signal=TERM", job)
    followed = user.call("slurm", "--follow", job)
    assert followed.returncode == 12, followed.stderr
    (row,) = user.rows()
    assert row["status"] == "preempted"
    assert row["tgs"] > 0


def test_a_requeued_job_is_a_second_run_and_the_first_keeps_its_status(user):
    job = user.submit("--set", "measure.steps=100000", "--requeue")
    wait_for(user.measures)
    follower = user.start("slurm", "--follow", job)
    user.site.call("scontrol", "requeue", job)

    def measures_again() -> bool:
        """Slurm holds a requeued job back for two minutes, from when it has completed: begin at once.

        It may say so before it has completed, and hold it back from then on once more.
        """
        if "Reason=BeginTime" in user.site.call("scontrol", "show", "job", "-o", job):
            user.site.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        return user.measures(2)

    wait_for(measures_again)
    user.call("slurm", "--cancel", job)
    _, said = follower.communicate(timeout=120)
    assert "after 1 requeue" in said
    statuses = [row["status"] for row in user.rows()]
    assert statuses == ["cancelled", "preempted"]


def test_a_job_that_cannot_start_is_a_clear_error(user):
    done = user.call("slurm", "--preset", "tiny_cpu", "--partition", "nowhere", "--submit")
    assert done.returncode == 2
    assert "invalid partition" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert user.call("slurm", "--follow", "999999").returncode == 2
