"""Is the clock that this process sees the machine's? A library put before it may have set another."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

_UPTIME = Path("/proc/uptime")
_WATCHED_S = 0.05
"""The kernel writes its uptime in hundredths of a second."""
_MOST_READINGS = 200_000
_RATES = (0.5, 2.0)
_TRIES = 3
"""A busy machine may take the process off its core between two readings."""


@lru_cache(maxsize=1)
def preloaded_clock_problem() -> str:
    """How fast this process' clock runs where a library (LD_PRELOAD) changed it; else an empty text.

    Takes 0.15 s, once, and only where a library is preloaded; a clock that is merely set otherwise is no
    problem.
    """
    library = os.environ.get("LD_PRELOAD", "")
    if not library:
        return ""
    try:
        rates = [_rate() for _ in range(_TRIES)]
    except (OSError, ValueError):
        return ""
    rate = sorted(rates)[_TRIES // 2]
    if any(_RATES[0] <= rate <= _RATES[1] for rate in rates):
        return ""
    speed = "stands still" if rate < 1e-3 else f"runs {rate:.3g} times as fast as the kernel's"
    return f"the clock of this process {speed}: LD_PRELOAD={library}"


def _rate() -> float:
    """Seconds of this process' clock to one of the kernel's."""
    begin_s, seen_s = _uptime_s(), time.monotonic()
    for _ in range(_MOST_READINGS):
        if (passed_s := _uptime_s() - begin_s) >= _WATCHED_S:
            break
    return (time.monotonic() - seen_s) / max(passed_s, _WATCHED_S)


def _uptime_s() -> float:
    return float(_UPTIME.read_text().split()[0])
