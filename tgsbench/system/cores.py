"""How many processes are worth starting."""

from __future__ import annotations

import os


def free_cores() -> int:
    """At least one: on two cores at a load of 6, two processes took 1.3 times as long as one."""
    try:
        load = int(os.getloadavg()[0])
    except OSError:
        load = 0
    return max(1, num_cores() - load)


def num_cores() -> int:
    """Cores that this process may use; all of the machine where the system cannot say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
