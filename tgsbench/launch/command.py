"""The command and environment that start a run's ranks; pure."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tgsbench.schema.preset import Preset
from tgsbench.schema.run import VirtualGpu
from tgsbench.system.child import module_argv


class Node(Struct, frozen=True, kw_only=True):
    """This machine's place among the machines of a run."""

    nnodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""
    """HOST:PORT of the first node; empty for one machine."""
    rendezvous_id: str = ""
    local_addr: str = ""
    """This machine's address on the way to the first node."""
    interface: str = ""
    """Network interface that holds it."""


ONE_NODE = Node()


def agent_argv(
    run_dir: Path,
    preset: Preset,
    node: Node = ONE_NODE,
    python: str = sys.executable,
    emulated: bool = False,
    virtual: VirtualGpu | None = None,
) -> list[str]:
    """Argument list of what starts one node's ranks; an emulated mesh has one process.

    `python` is of the environment with a CUDA build of torch where the GPU is virtual. Another system's ranks
    are started from here by this very Python, which finds theirs.
    """
    if preset.is_external:
        return module_argv("tgsbench.external", str(run_dir))
    argv = module_argv("tgsbench.training.agent", str(run_dir), python=python)
    lone_rank = virtual.rank if virtual is not None else None
    alone = emulated or lone_rank is not None
    argv += ["--nproc-per-node", str(1 if alone else preset.world_size // node.nnodes)]
    if lone_rank is not None:
        argv += ["--lone-rank", str(lone_rank), "--world-size", str(preset.world_size)]
    if node.nnodes > 1 or node.rendezvous:
        argv += ["--nnodes", str(node.nnodes), "--node-rank", str(node.node_rank)]
        argv += ["--rendezvous", node.rendezvous, "--rendezvous-id", node.rendezvous_id]
    if node.local_addr:
        argv += ["--local-addr", node.local_addr]
    return argv


def rank_environment(
    preset: Preset, base: Mapping[str, str], num_cores: int, nproc: int, interface: str = "lo"
) -> dict[str, str]:
    """Environment of the ranks: threads shared out, allocator and NCCL settings that are safe defaults.

    `interface` is where ranks listen for each other: the loopback one on a single machine. What the user has
    set already stays.
    """
    env = dict(base)
    env.setdefault("OMP_NUM_THREADS", str(max(1, num_cores // nproc)))
    env.setdefault("TOKENIZERS_PARALLELISM", "true")
    if preset.hardware.device == "cuda":
        env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    else:
        env.setdefault("CUDA_VISIBLE_DEVICES", "")
    # The last collectives of each rank, asked for when a run stalls.
    env.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    if interface:
        env.setdefault("GLOO_SOCKET_IFNAME", interface)
        env.setdefault("NCCL_SOCKET_IFNAME", interface)
    return env


def supervisor_argv(run_dir: Path) -> list[str]:
    """The command that supervises a prepared run in a process of its own (the TUI starts it)."""
    return module_argv("tgsbench", "supervise", str(run_dir.resolve()))


def as_script(argv: list[str]) -> str:
    """The command as a shell script to read and copy; tgsbench never executes it."""
    return (
        "#!/bin/sh\n# The command that started this run's ranks; for reading and copying.\n"
        + shlex.join(argv)
        + "\n"
    )
