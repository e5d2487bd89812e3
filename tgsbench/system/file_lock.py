"""Locks of files, which the kernel lets go of when their holder ends in any way."""

from __future__ import annotations

import fcntl


def lock_if_free(fd: int) -> bool:
    """Take the whole file for this process; False when another one holds it.

    On a file system without locks there is none to hold: True.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
