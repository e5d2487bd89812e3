"""A preset over several machines: which ranks go where, what each machine runs, and where they meet."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local, preflight
from tgsbench.launch.command import Node
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

DEFAULT_PORT = 29400
"""torch's own default for the c10d rendezvous."""
JOB_PORTS = range(10000, 30000)
"""A Slurm job's port follows from its number: two jobs of one machine do not meet."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Placement(Struct, frozen=True):
    """How a preset's ranks spread over machines."""

    nnodes: int
    nproc_per_node: int
    nodes_per_sp_group: int
    note: str = ""
    """What the user must know about sequence-parallel groups that cross machines."""


def place(preset: Preset, nnodes: int) -> Placement:
    """Spread the ranks evenly; sp groups, being consecutive ranks, stay on one machine where they fit.

    Raises TgsError when the ranks do not divide or a machine has too few GPUs.
    """
    world, per_node, sp = preset.world_size, preset.hardware.gpus_per_node, preset.parallel.sp
    needed = -(-world // per_node)
    if nnodes < needed or world % nnodes:
        fitting = [n for n in range(needed, world + 1) if world % n == 0]
        raise TgsError(
            f"{preset.name}: {world} ranks do not spread over {nnodes} nodes of {per_node} GPUs; "
            f"nearest: {', '.join(map(str, fitting[:3]))} nodes",
            hint="name as many hosts, or set hardware.gpus_per_node",
            exit_code=ExitCode.USAGE,
        )
    nproc = world // nnodes
    if nproc % sp == 0:
        return Placement(nnodes, nproc, 1)
    crossed = -(-sp // nproc) if sp % nproc == 0 else 2
    note = f"sp {sp} does not fit a node's {nproc} ranks: its all-to-alls cross {crossed} nodes, " + (
        f"{1 - nproc / sp:.0%} of their bytes go over the network" if sp > nproc else "for some groups"
    )
    return Placement(nnodes, nproc, crossed, note)


def parse_nodes(text: str) -> tuple[str, ...]:
    """Host names from a comma-separated list; TgsError for doubles or empty names."""
    if not text:
        raise TgsError("--node-rank needs --nodes: all machines of the run, the first one leads")
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise TgsError(f"--nodes {text}: write each host once, such as --nodes host1,host2")
    return names


def parse_rendezvous(text: str, nodes: Sequence[str]) -> str:
    """HOST:PORT as given, with the first node and torch's port where they are missing.

    Raises TgsError when the port is no number from 1 to 65535.
    """
    host, _, port = (text or nodes[0]).rpartition(":") if ":" in text else (text or nodes[0], "", "")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise TgsError(
            f"--rendezvous {text}: {port!r} is no port; write HOST:PORT, such as host1:{DEFAULT_PORT}"
        )
    return f"{host or nodes[0]}:{port or DEFAULT_PORT}"


class NodePart(Struct, frozen=True):
    """One machine's part of a run over several, or the plan of all of them."""

    hosts: tuple[str, ...]
    node_rank: int | None = None
    """This machine's place among the hosts; None: nothing runs here yet."""
    rendezvous: str = ""
    """HOST:PORT; what is missing is the first host and torch's port."""
    name: str = ""
    """Name of the run's folder, the same on every machine."""

    @property
    def meeting_point(self) -> str:
        """Full HOST:PORT of the rendezvous."""
        return parse_rendezvous(self.rendezvous, self.hosts)

    def commands(self, preset: Preset, options: list[str], root: Path) -> list[tuple[str, list[str]]]:
        """Each host with its command; `options` are those that choose the preset."""
        name = self.name or new_name(preset)
        shared = ["tgsbench", "run", *options, "--headless", "--nodes", ",".join(self.hosts)]
        last = ["--rendezvous", self.meeting_point, "--output", str(root.absolute()), "--name", name]
        return [(host, [*shared, "--node-rank", str(i), *last]) for i, host in enumerate(self.hosts)]

    def node(self, preset: Preset) -> Node:
        """This machine's place, for the launcher. Raises TgsError when the meeting point has no route."""
        assert self.node_rank is not None
        place(preset, len(self.hosts))
        return node_at(len(self.hosts), self.node_rank, self.meeting_point, self.name)


def node_at(nnodes: int, node_rank: int, rendezvous: str, run_id: str) -> Node:
    """A machine's place among `nnodes`, with its address on the way to the rendezvous."""
    address, interface = route_to(rendezvous.rpartition(":")[0])
    return Node(
        nnodes=nnodes,
        node_rank=node_rank,
        rendezvous=rendezvous,
        rendezvous_id=run_id,
        local_addr=address,
        interface=interface,
    )


def new_name(preset: Preset) -> str:
    """A run name that all nodes share."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{preset.name}-{secrets.token_hex(2)}"


def job_environment(preset: Preset, assignments: Sequence[str]) -> dict[str, str]:
    """Variables of a job's ranks: safe defaults, then the user's KEY=VALUE.

    Raises TgsError for other words.
    """
    env = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    if preset.hardware.device == "cuda":
        env["NCCL_DEBUG"] = "WARN"
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not _VARIABLE.fullmatch(key):
            raise TgsError(f"--env {assignment}: write KEY=VALUE, such as --env NCCL_IB_HCA=mlx5")
        env[key] = value
    return env


def preset_options(name: str, assignments: Sequence[str], rehearse: bool) -> list[str]:
    """Options of `tgsbench run` that choose the same preset on every machine."""
    preset = str(Path(name).absolute()) if name.endswith(".toml") else name
    options = ["--preset", preset, *(word for each in assignments for word in ("--set", each))]
    return [*options, "--rehearse"] if rehearse else options


def prepare(part: NodePart, preset: Preset, root: Path) -> RunDir:
    """Check this machine and make or join the run's folder; nothing is started.

    Raises TgsError when the ranks do not fit here, the port is taken, or the folder is another run's.
    """
    if part.node_rank is None or not 0 <= part.node_rank < len(part.hosts):
        last = len(part.hosts) - 1
        raise TgsError(f"--node-rank {part.node_rank}: {last + 1} nodes are named, so 0 to {last}")
    if not part.name:
        raise TgsError(
            "--node-rank needs --name, the same on every node",
            hint="leave --node-rank out: the commands of all nodes are printed",
        )
    placement = place(preset, len(part.hosts))
    preflight.check(preset, preflight.this_machine(), placement.nproc_per_node)
    if part.node_rank == 0:
        _check_port(part.meeting_point)
    run = _join(root, preset, part.name, part.node_rank)
    if part.node_rank == 0:
        local.prepare_run(run, preset, node=part.node(preset), hosts=part.hosts)
    return run


def route_to(host: str) -> tuple[str, str]:
    """This machine's address and network interface on the way to `host`; empty strings when it is unknown.

    Nothing is sent: connecting a datagram socket only asks the routing table.
    Raises TgsError when the host cannot be reached from here.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise TgsError(
            f"the rendezvous host {host!r} is not reachable from here: {error.strerror}",
            hint="use a name or address of the first node that every node resolves: --rendezvous HOST:PORT",
            exit_code=ExitCode.USAGE,
        ) from error
    if own.startswith("127.") and not _means_loopback(host):
        own = _outward_address() or own
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == own for known in addresses):
            return own, name
    return own, ""


def _means_loopback(host: str) -> bool:
    """Is loopback asked for, and not what this machine's own name resolves to (Debian: 127.0.1.1)?"""
    return host == "localhost" or host.startswith("127.")


def _outward_address() -> str:
    """This machine's first IPv4 address that others can reach, of an interface that is up; empty for none."""
    states = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        for known in addresses if name in states and states[name].isup else ():
            if known.family == socket.AF_INET and not known.address.startswith(("127.", "169.254.")):
                return str(known.address)
    return ""


def _join(root: Path, preset: Preset, name: str, node_rank: int) -> RunDir:
    """The run folder that all nodes share; whoever comes first makes it.

    Raises TgsError when it holds another preset, or, on the first node, a run of that name.
    """
    run = run_dir.create(root, preset, name, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if node_rank == 0 and (run.path / "run.json").stat():
            raise TgsError(
                f"{run.path} already exists", hint="choose another --name", exit_code=ExitCode.STORE
            )
    if run.preset() != preset:
        raise TgsError(
            f"{run.path} belongs to another preset or other --set values",
            hint="run the same command on every node, but for --node-rank",
            exit_code=ExitCode.STORE,
        )
    return run


def _check_port(rendezvous: str) -> None:
    host, _, port = rendezvous.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise TgsError(
                f"port {port} on {host} is in use: {error.strerror}",
                hint=f"choose another port on every node: --rendezvous {host}:{int(port) + 1}",
                exit_code=ExitCode.USAGE,
            ) from error
