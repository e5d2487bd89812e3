"""`--nodes auto`: where a machine stands, from the variables of the launcher that started the process."""

from __future__ import annotations

import pytest

from tests.contract.cli import environment, tgsbench
from tgsbench.errors import TgsError
from tgsbench.launch.launchers import from_environment, one_of

KUBEFLOW = {
    "PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_NPROC_PER_NODE": "1",
    "PET_MASTER_ADDR": "speed-node-0-0.speed", "PET_MASTER_PORT": "29400",
}  # fmt: skip
SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5",
    "SKYPILOT_TASK_ID": "sky-2026-01-01-00-00-00-000000_mine_1",
}  # fmt: skip
SLURM = {
    "SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n1,n2", "SLURM_JOB_ID": "30007",
    "SLURM_LOCALID": "0",
}  # fmt: skip
TORCHRUN = {
    "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "host1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip


def test_kubeflow_names_the_pods_of_the_job():
    part, is_first = from_environment(KUBEFLOW, "r1")
    assert part.hosts == ("speed-node-0-0.speed", "speed-node-0-1.speed", "speed-node-0-2.speed")
    assert (part.node_rank, part.meeting_point, part.name, is_first) == (
        2, "speed-node-0-0.speed:29400", "r1", True,
    )  # fmt: skip


def test_skypilot_names_addresses_and_its_task():
    part, _ = from_environment(SKYPILOT)
    assert (part.hosts, part.node_rank) == (("10.0.0.4", "10.0.0.5"), 1)
    assert part.meeting_point == "10.0.0.4:29400" and part.name.endswith("_mine_1")


def test_slurm_gives_a_port_of_the_jobs_own_and_one_process_a_node_starts_the_ranks():
    part, is_first = from_environment(SLURM)
    assert (part.hosts, part.node_rank, part.name) == (("n1", "n2"), 1, "job30007")
    assert part.meeting_point == "n1:20007" and is_first
    assert not from_environment(SLURM | {"SLURM_LOCALID": "3"})[1]


def test_torchruns_own_port_is_left_to_torchrun():
    part, is_first = from_environment(TORCHRUN, "r1")
    assert (part.hosts, part.node_rank, part.meeting_point) == (("host1", "node1"), 1, "host1:29501")
    assert is_first and not from_environment(TORCHRUN | {"LOCAL_RANK": "7"}, "r1")[1]


def test_a_launcher_inside_another_is_the_one_that_counts():
    assert from_environment(SLURM | SKYPILOT)[0].hosts[0] == "10.0.0.4"
    assert from_environment(KUBEFLOW | TORCHRUN, "r1")[0].hosts[0] == "host1"


@pytest.mark.parametrize(
    ("env", "num_machines"),
    [(KUBEFLOW, 3), (SKYPILOT, 2), (SLURM, 2), (TORCHRUN, 2), (KUBEFLOW | {"PET_NNODES": "1"}, 0), ({}, 0),
     ({"PET_NODE_RANK": "0"}, 0)],
)  # fmt: skip
def test_a_run_that_leaves_its_launchers_other_machines_out_is_told(env, num_machines):
    assert (f"one of {num_machines} machines" in one_of(env)) == bool(num_machines)
    assert bool(one_of(env)) == bool(num_machines)


@pytest.mark.parametrize(
    ("env", "name", "words"),
    [
        ({}, "r1", "no launcher has said"),
        (TORCHRUN, "", "add --name"),
        ({"PET_NODE_RANK": "0"}, "r1", "Kubeflow has not set PET_NNODES"),
        (KUBEFLOW | {"PET_NNODES": "1:4"}, "r1", "'1:4'"),
        (KUBEFLOW | {"PET_NNODES": "999999999"}, "r1", "999999999 nodes"),
        (SLURM | {"SLURM_NODEID": "-1"}, "", "SLURM_NODEID"),
    ],
)
def test_what_a_launcher_leaves_open_is_asked_for(env, name, words):
    with pytest.raises(TgsError) as refused:
        from_environment(env, name)
    assert words in f"{refused.value.msg} {refused.value.hint}"


def test_a_process_beside_the_machines_first_ends_without_a_run(tmp_path, monkeypatch):
    for key, value in (TORCHRUN | {"LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(key, value)
    done = tgsbench(tmp_path, "run", "--preset", "tiny_cpu", "--headless", "--nodes", "auto", "--name", "r1")
    assert done.returncode == 0 and "starts its ranks" in done.stderr
    assert not (tmp_path / "runs").exists() and environment(tmp_path)["GROUP_RANK"] == "1"
    done = tgsbench(tmp_path, "run", "--preset", "tiny_cpu", "--nodes", "auto", "--node-rank", "0")
    assert done.returncode == 2 and "takes both from the launcher" in done.stderr
