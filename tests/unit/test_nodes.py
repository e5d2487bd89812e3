"""Presets over several machines: placement, the command of each, where they meet."""

from __future__ import annotations

import socket
from collections import namedtuple
from pathlib import Path

import pytest

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch import nodes
from tgsbench.launch.command import Node, agent_argv, rank_environment
from tgsbench.store import run_dir

B70 = presets.resolve("llama2_70b_1M").preset
HOSTS = tuple(f"host{i}" for i in range(8))


@pytest.mark.parametrize(
    ("name", "nnodes", "nproc", "crossed"),
    [("llama2_70b_1M", 8, 8, 8), ("llama2_70b_8k", 4, 8, 1), ("llama2_7b_1M", 4, 8, 2)],
)
def test_sequence_groups_stay_on_a_machine_where_they_fit(name, nnodes, nproc, crossed):
    preset = presets.resolve(name, [f"hardware.num_gpus={nnodes * nproc}"]).preset
    if name == "llama2_7b_1M":
        preset = presets.resolve(name, ["hardware.num_gpus=32", "parallel.sp=16"]).preset
    placement = nodes.place(preset, nnodes)
    assert (placement.nproc_per_node, placement.nodes_per_sp_group) == (nproc, crossed)
    assert bool(placement.note) == (crossed > 1)


def test_how_much_of_the_all_to_all_crosses_is_said():
    assert "cross 8 nodes, 88% of their bytes" in nodes.place(B70, 8).note


@pytest.mark.parametrize("nnodes", [1, 3, 7, 65])
def test_ranks_that_do_not_spread_name_the_nearest_number_of_nodes(nnodes):
    with pytest.raises(TgsError, match="nearest: 8, 16, 32 nodes"):
        nodes.place(B70, nnodes)


def test_every_host_has_its_command_with_the_same_name_and_meeting_point():
    part = nodes.NodePart(HOSTS, name="r1")
    options = nodes.preset_options("llama2_70b_1M", ["measure.steps=3"], rehearse=False)
    commands = part.commands(B70, options, Path("/shared"))
    assert [host for host, _ in commands] == list(HOSTS)
    for rank, (_, argv) in enumerate(commands):
        assert argv[argv.index("--node-rank") + 1] == str(rank)
        assert argv[argv.index("--rendezvous") + 1] == "host0:29400"
        assert argv[argv.index("--name") + 1] == "r1"
        assert argv[argv.index("--output") + 1] == "/shared"
        assert argv[2:6] == ["--preset", "llama2_70b_1M", "--set", "measure.steps=3"]


@pytest.mark.parametrize(
    ("text", "full"),
    [("", "host0:29400"), ("10.0.0.7", "10.0.0.7:29400"), ("h:5", "h:5"), (":5", "host0:5")],
)
def test_what_a_rendezvous_lacks_is_filled_in(text, full):
    assert nodes.parse_rendezvous(text, HOSTS) == full


@pytest.mark.parametrize("text", ["h:0", "h:x", "h:65536", "h:²", "h:" + "9" * 5000])
def test_a_bad_port_is_refused(text):
    with pytest.raises(TgsError, match="is no port"):
        nodes.parse_rendezvous(text, HOSTS)


def test_the_way_to_an_address_names_the_interface_that_ranks_listen_on():
    assert nodes.route_to("127.0.0.1") == ("127.0.0.1", "lo")
    assert nodes.route_to("localhost") == ("127.0.0.1", "lo")
    with pytest.raises(TgsError, match="not reachable"):
        nodes.route_to("no-such-host.invalid")


def test_ranks_of_several_machines_do_not_listen_on_the_loopback_interface():
    assert rank_environment(B70, {}, 8, 8, "eth7")["NCCL_SOCKET_IFNAME"] == "eth7"
    assert rank_environment(B70, {}, 8, 8)["NCCL_SOCKET_IFNAME"] == "lo"
    node = Node(nnodes=8, rendezvous="h:1", rendezvous_id="r", local_addr="10.0.0.2")
    argv = agent_argv(Path("run"), B70, node)
    assert argv[argv.index("--local-addr") + 1] == "10.0.0.2"


def test_the_outcomes_of_all_nodes_are_one(tmp_path):
    from tgsbench.schema.run import LauncherReport, Outcome, RankExit

    run = run_dir.create(tmp_path, B70, "r")
    run.write("outcome1.json", Outcome(status="stalled", reason="why", cause="cut", oom_kills=1))
    assert run.outcome() is None  # the first node goes on
    run.write("outcome.json", Outcome(exit_code=8, oom_kills=2))
    both = run.outcome()
    assert (both.status, both.reason, both.cause, both.exit_code, both.oom_kills) == (
        "stalled",
        "why",
        "cut",
        8,
        3,
    )
    run.write("launcher.json", LauncherReport(exits=[RankExit(rank=0, exit_code=8)]))
    run.write("launcher3.json", LauncherReport(exits=[RankExit(rank=9, exit_code=-9)], problem="p"))
    assert [e.rank for e in run.launcher_report().exits] == [0, 9]
    assert run.launcher_report().problem == "p"


def test_a_first_node_whose_own_name_is_a_loopback_address_is_reached_by_another(monkeypatch):
    """Debian writes `127.0.1.1 NAME` into /etc/hosts: no other node could reach that."""
    own_name = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.1.1", 9))
    monkeypatch.setattr(nodes.socket, "getaddrinfo", lambda *_, **__: [own_name])
    address = namedtuple("address", "family address")
    cards = {
        "lo": [address(socket.AF_INET, "127.0.0.1")],
        "down0": [address(socket.AF_INET, "10.9.9.9")],
        "eth0": [address(socket.AF_INET6, "fe80::1%eth0"), address(socket.AF_INET, "10.0.0.1")],
    }
    state = namedtuple("state", "isup")
    monkeypatch.setattr(nodes.psutil, "net_if_addrs", lambda: cards)
    states = {name: state(name != "down0") for name in cards}
    monkeypatch.setattr(nodes.psutil, "net_if_stats", lambda: states)
    assert nodes.route_to("node0") == ("10.0.0.1", "eth0")
    del cards["eth0"]
    assert nodes.route_to("node0")[0].startswith("127."), "a machine without a network has no other"
