"""Is the clock that this process sees the machine's? A library put before it may have set another."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_UPTIME = Path("/proc/uptime")
_TICK_S = 0.01
"""The kernel writes its uptime in hundredths of a second."""
_WATCHED_S = 0.2
"""A clock that is a tenth too fast is told; one of a busy machine, however long a reading takes, is not."""
_MOST_READINGS = 200_000


class _Reading(NamedTuple):
    """This process' clock, and the kernel's uptime before and after it was read."""

    before_s: float
    seen_s: float
    after_s: float


@lru_cache(maxsize=1)
def preloaded_clock_problem() -> str:
    """What is wrong with this process' clock where a library (LD_PRELOAD) changed it; else an empty text.

    Its rate, or that nothing can wait by it. Takes 0.2 s, once, and only where a library is preloaded; a
    clock that is merely set otherwise is no problem.
    """
    library = os.environ.get("LD_PRELOAD", "")
    problem = _problem() if library else ""
    return f"the clock of this process {problem}: LD_PRELOAD={library}" if problem else ""


def _problem() -> str:
    try:
        time.sleep(0)
    except OSError as error:  # a time before the machine's start: no wait can end then
        return f"lets nothing wait ({error.strerror})"
    try:
        least, most = _rates()
    except (OSError, ValueError):
        return ""
    if least <= 1.0 <= most:
        return ""
    if most < 1e-3:
        return "stands still"
    return f"runs {2 * least * most / (least + most):.2g} times as fast as the kernel's"


def _rates() -> tuple[float, float]:
    """Least and most seconds of this process' clock to one of the kernel's, as its readings bound them."""
    begin = end = _read()
    for _ in range(_MOST_READINGS):
        end = _read()
        if end.before_s - begin.after_s >= _WATCHED_S:
            break
    passed_s = end.seen_s - begin.seen_s
    least_s = max(end.before_s - begin.after_s - _TICK_S, _TICK_S)
    return passed_s / (end.after_s - begin.before_s + _TICK_S), passed_s / least_s


def _read() -> _Reading:
    return _Reading(_uptime_s(), time.monotonic(), _uptime_s())


def _uptime_s() -> float:
    return float(_UPTIME.read_text().split()[0])
