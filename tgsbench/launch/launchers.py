"""Where a run's machines are, as the launcher that started this process says it in its variables; pure."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tgsbench.errors import TgsError
from tgsbench.launch.nodes import DEFAULT_PORT, JOB_PORTS, NodePart

Environment = Mapping[str, str]

AUTO: Final = "auto"
"""Value of --nodes that asks for the launcher's word."""

_FIRST_POD = re.compile(r"(.*)-0(\..*)?")
"""Host name of an indexed job's first pod: `speed-node-0-0.speed`."""
_MAX_NODES = 100_000


class Launcher(NamedTuple):
    """One way to start a process on every machine."""

    title: str
    known_by: str
    """The variable that only this launcher sets."""
    read: Callable[[Environment], NodePart]
    """This machine's place; raises KeyError for a variable that is missing, ValueError for a bad one."""
    is_first_here: Callable[[Environment], bool] = lambda _env: True
    """Is this the process of its machine that starts the ranks? Launchers may start one a GPU."""


def from_environment(env: Environment, name: str = "") -> tuple[NodePart, bool]:
    """This machine's place among the hosts, and: is this the process of its machine that starts the ranks?

    `name`: of the run, where the user gave one; else it follows from the launcher's job.
    Raises TgsError when no launcher is known by its variables, or they do not say enough.
    """
    launcher = next((known for known in LAUNCHERS if known.known_by in env), None)
    if launcher is None:
        known_by = ", ".join(f"{known.known_by} ({known.title})" for known in LAUNCHERS)
        raise TgsError(
            "--nodes auto: no launcher has said where this machine stands",
            hint=f"looked for {known_by}; or name the machines: --nodes host1,host2 --node-rank 0",
        )
    try:
        part = launcher.read(env)
        is_first = launcher.is_first_here(env)
    except KeyError as error:
        raise TgsError(f"--nodes auto: {launcher.title} has not set {error.args[0]}") from error
    except ValueError as error:
        raise TgsError(f"--nodes auto: {launcher.title}: {error}") from error
    named = name or part.name
    if not named:
        raise TgsError(
            f"--nodes auto: {launcher.title} gives its job no name of its own",
            hint="add --name, the same on every node",
        )
    return NodePart(part.hosts, part.node_rank, part.rendezvous, named), is_first


def one_of(env: Environment) -> str:
    """What a run of one machine should know where a launcher started it on several; empty where none did."""
    for launcher in LAUNCHERS:
        if launcher.known_by in env:
            try:
                num_nodes = len(launcher.read(env).hosts)
            except (KeyError, ValueError, IndexError):
                return ""
            said = (
                f"{launcher.title} started this on one of {num_nodes} machines, and it runs on this one alone"
            )
            return said if num_nodes > 1 else ""
    return ""


def _kubeflow(env: Environment) -> NodePart:
    """torchrun's defaults as Kubeflow's controller and our JobSets set them."""
    num_nodes, node_rank = _number(env, "PET_NNODES"), _number(env, "PET_NODE_RANK")
    first, port = env["PET_MASTER_ADDR"], env.get("PET_MASTER_PORT", str(DEFAULT_PORT))
    return NodePart(_pods(first, num_nodes), node_rank, f"{first}:{port}", "")


def _skypilot(env: Environment) -> NodePart:
    hosts = tuple(env["SKYPILOT_NODE_IPS"].split())
    job = env.get("SKYPILOT_TASK_ID", "")
    return NodePart(hosts, _number(env, "SKYPILOT_NODE_RANK"), f"{hosts[0]}:{DEFAULT_PORT}", job)


def _slurm(env: Environment) -> NodePart:
    hosts, job = _host_list(env["SLURM_JOB_NODELIST"]), _number(env, "SLURM_JOB_ID")
    port = JOB_PORTS[job % len(JOB_PORTS)]
    return NodePart(hosts, _number(env, "SLURM_NODEID"), f"{hosts[0]}:{port}", f"job{job}")


def _torchrun(env: Environment) -> NodePart:
    """torchrun's agent keeps MASTER_PORT for its own store: ours is the next one."""
    num_nodes, node_rank = _number(env, "GROUP_WORLD_SIZE"), _number(env, "GROUP_RANK")
    first, port = env["MASTER_ADDR"], _number(env, "MASTER_PORT") + 1
    job = env.get("TORCHELASTIC_RUN_ID", "")
    return NodePart(_pods(first, num_nodes), node_rank, f"{first}:{port}", "" if job == "none" else job)


LAUNCHERS: Final = (
    Launcher("SkyPilot", "SKYPILOT_NODE_RANK", _skypilot),
    Launcher("torchrun", "GROUP_RANK", _torchrun, lambda env: _number(env, "LOCAL_RANK") == 0),
    Launcher("Kubeflow", "PET_NODE_RANK", _kubeflow),
    Launcher("Slurm", "SLURM_NODEID", _slurm, lambda env: _number(env, "SLURM_LOCALID") == 0),
)
"""The innermost first: SkyPilot and torchrun also run inside Slurm jobs and Kubernetes pods."""


def _number(env: Environment, key: str) -> int:
    text = env[key]
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"{key} is {text[:40]!r}, where one number is wanted")
    return int(text)


def _pods(first: str, num_nodes: int) -> tuple[str, ...]:
    """The machines' names: an indexed job's follow from the first one's, of others only that is known."""
    if not 0 < num_nodes <= _MAX_NODES:
        raise ValueError(f"{num_nodes} nodes")
    pods = _FIRST_POD.fullmatch(first)
    rest = range(1, num_nodes)
    if pods is None:
        return (first, *(f"node{i}" for i in rest))
    return (first, *(f"{pods[1]}-{i}{pods[2] or ''}" for i in rest))


def _host_list(text: str) -> tuple[str, ...]:
    """Slurm's short form of many names; its own tool writes them out."""
    if "[" not in text:
        return tuple(text.split(","))
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", text],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"scontrol cannot write out SLURM_JOB_NODELIST {text!r}: {error}") from error
    return tuple(done.stdout.split())
