"""One rank of a whole world on a virtual GPU: `python -m tgsbench.training.lone_rank RUN_DIR RANK WORLD`.

The rank itself runs as any other. Only its surroundings are made here: its place in the world, and, in the
store where ranks meet, what the absent first rank would have left there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tgsbench.training.__main__ import main
from tgsbench.training.meeting import loopback_store

_ID_BYTES = 128
"""Of an NCCL unique id, by which the ranks of a communicator find each other."""
_NUM_GROUPS = 32
"""Process groups whose communicators may be made by an id; torch splits most off the first one."""


def take_place(rank: int, world: int) -> None:
    """Make this process rank `rank` of `world`, the only one on its node."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def speak_for_absent() -> None:
    """Leave the ids in the store that rank 0 of each communicator would: nobody else can."""
    store = loopback_store()
    if store is None:
        return
    for group in range(_NUM_GROUPS):
        store.set(f"{group}//cuda//0", "\0" * _ID_BYTES)


if __name__ == "__main__":
    run_dir, rank, world = sys.argv[1:]
    take_place(int(rank), int(world))
    if int(rank):
        speak_for_absent()
    main(Path(run_dir))
