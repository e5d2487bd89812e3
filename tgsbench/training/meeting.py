"""Where the ranks of one machine meet: a store on the loopback address alone.

torch's own store listens on every interface and takes commands from anyone.
"""

from __future__ import annotations

import functools
import os

from torch._C._distributed_c10d import TCPStore

from tgsbench.training.local_ranks import LOOPBACK


@functools.cache
def loopback_store() -> TCPStore | None:
    """This process's way into the store, which it keeps itself where it was given the port's socket.

    None where ranks meet as torch has it. Those that come before the first rank has imported torch wait.
    """
    port = os.environ.get("TGSBENCH_STORE_PORT")
    if port is None:
        return None
    listener = os.environ.pop("TGSBENCH_STORE_FD", None)
    world = int(os.environ["WORLD_SIZE"])
    if listener is None:
        return TCPStore(LOOPBACK, int(port), world, is_master=False, wait_for_workers=False)
    os.set_inheritable(int(listener), False)
    return TCPStore(
        LOOPBACK, int(port), world, is_master=True, wait_for_workers=False, master_listen_fd=int(listener)
    )
