"""Be rank 0 of a world whose other ranks are not there, on a virtual GPU: `python FILE WORLD PROGRAM …`.

PROGRAM is a script, or -m and a module, with its arguments. Nothing of it is changed but where its ranks
meet: the store is this process's own, and groups on CPUs, which would wait for peers, answer at once, as NCCL
does on the virtual device: every peer is taken to have sent what this rank sends.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import runpy
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
import torch.testing._internal.distributed.fake_pg  # registers the backend of that name
from torch._C._distributed_c10d import TCPStore


def main() -> None:
    """Take the place, and run the program as torchrun would have started it."""
    meet_alone(int(sys.argv[1]))
    answer_at_once()
    choose_everything()
    sys.argv = sys.argv[2:]
    run_program()


def meet_alone(world: int) -> None:
    """Open the store where ranks meet, and say where it is by torchrun's own variables."""
    store = TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    os.environ |= {
        "RANK": "0", "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    # NCCL's watchdog asks it to the end of the process, after Python has let go of everything.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))


def answer_at_once() -> None:
    """Let torch's own pretended peers stand for gloo's, which connects to each of them.

    Every NCCL group is made by itself: of one that is split off another nobody can count the ranks.
    """
    make = c10d._new_process_group_helper
    signature = inspect.signature(make)

    def make_alone(*args: Any, **named: Any) -> Any:
        bound = signature.bind(*args, **named)
        bound.arguments["backend"] = dist.Backend(str(bound.arguments["backend"]).replace("gloo", "fake"))
        bound.arguments["device_id"] = None
        return make(*bound.args, **bound.kwargs)

    c10d._new_process_group_helper = make_alone
    dist.Backend.default_device_backend_map["cpu"] = "fake"


def choose_everything() -> None:
    """Let every element of a mask be chosen: how many really are would be read from what nobody computed.

    A choice costs a reduction and a wait here, where CUB's takes three launches more.
    """

    def nonzero(mask: torch.Tensor) -> torch.Tensor:
        mask.any().item()
        return torch.empty(mask.numel(), mask.dim(), dtype=torch.int64, device=mask.device)

    library = torch.library.Library("aten", "IMPL")
    library.impl("nonzero", nonzero, "CUDA")
    _KEPT.append(library)


_KEPT: list[torch.library.Library] = []
"""Operators are replaced as long as their library is there."""


def run_program() -> None:
    """Run what sys.argv names as if it had been started alone."""
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
