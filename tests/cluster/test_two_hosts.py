"""One run over two hosts with addresses of their own, and what is said when one of them is cut off."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.cluster.hosts import node_args, two_hosts
from tests.contract.cli import tgsbench, tgsbench_json
from tests.dist.faulty import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.dist]


@pytest.fixture
def hosts():
    """Two fresh hosts."""
    with two_hosts() as both:
        yield both


def _start(hosts, home, *more, **options):
    names = ("hosta", "hostb")
    return [hosts.start(h, home, *node_args(hosts, home, i, *more, **options)) for i, h in enumerate(names)]


def _num_steps(home, rank=0) -> int:
    path = home / "runs" / "two" / "events" / f"rank{rank:05d}.jsonl"
    return path.read_bytes().count(b'"type":"step"') if path.exists() else 0


def test_two_hosts_train_one_model_and_the_first_stores_the_result(hosts, tmp_path):
    both = _start(hosts, tmp_path, "--steps", "4")
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    document = tgsbench_json(tmp_path, "show", "two", "--json")
    assert (document["status"], document["world_size"], document["tgs"]["n"]) == ("ok", 4, 4)
    assert document["hosts"] == ["hosta", "hostb"]
    assert document["sp_spans_nodes"] is False
    assert document["integrity"]["tokens_ok"]
    assert {path.name for path in (tmp_path / "runs" / "two").glob("outcome*")} == {
        "outcome.json",
        "outcome1.json",
    }


def test_a_sequence_group_over_two_hosts_is_said_in_the_result(hosts, tmp_path):
    both = _start(hosts, tmp_path, "--steps", "2", "--set", "hardware.gpus_per_node=1", gpus=2)
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    document = tgsbench_json(tmp_path, "show", "two", "--json")
    assert document["sp_spans_nodes"] is True
    assert any("crosses machines" in warning for warning in document["warnings"])
    assert document["integrity"]["a2a_ok"]


def test_a_host_that_is_cut_off_in_the_middle_is_named(hosts, tmp_path):
    both = _start(hosts, tmp_path, "--steps", "100000", "--set", "measure.stall_s=10")
    wait_for(lambda: _num_steps(tmp_path) >= 6, lambda: any(p.poll() is not None for p in both))
    hosts.cut("hostb")
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [10, 10], said
    (row,) = tgsbench_json(tmp_path, "runs", "--json")
    assert row["status"] == "stalled"
    assert "hostb cannot reach 10.231.77.1:29400 any more" in row["reason"]
    assert row["tgs"] > 0
    failure = tgsbench_json(tmp_path, "show", "two", "--json")["failure"]
    assert {f"stacks/rank0000{rank}.txt" for rank in range(4)} <= set(failure["files"])


def test_a_rank_killed_on_the_other_host_ends_both_and_is_named_with_its_host(hosts, tmp_path):
    both = _start(hosts, tmp_path, "--steps", "100000")
    wait_for(lambda: _num_steps(tmp_path) >= 6, lambda: any(p.poll() is not None for p in both))
    events = tmp_path / "runs" / "two" / "events"
    hellos = [json.loads(path.read_bytes().split(b"\n")[0]) for path in sorted(events.glob("rank*"))]
    victim = next(hello for hello in hellos if hello["host"] == "hostb")
    os.kill(victim["pid"], signal.SIGKILL)
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [8, 8], said
    failure = tgsbench_json(tmp_path, "show", "two", "--json")["failure"]
    assert failure["reason"] == f"rank {victim['rank']} was killed by SIGKILL"
    assert (failure["rank"], failure["host"]) == (victim["rank"], "hostb")


def test_a_node_with_other_settings_does_not_join(hosts, tmp_path):
    first = hosts.start("hosta", tmp_path, *node_args(hosts, tmp_path, 0, "--steps", "4"))
    wait_for(lambda: (tmp_path / "runs" / "two" / "run.json").exists(), lambda: first.poll() is not None)
    second = hosts.start("hostb", tmp_path, *node_args(hosts, tmp_path, 1, "--steps", "5"))
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 7
    assert "belongs to another preset or other --set values" in said
    first.terminate()
    first.communicate(timeout=60)
    assert "TGS" in tgsbench(tmp_path, "show", "two").stdout
