"""A clock that stops while its process is suspended, so that a laptop's sleep is not taken for a stall."""

from __future__ import annotations

import time
from collections.abc import Callable


class AwakeClock:
    """Seconds since it was made, of which no pause between two readings counts more than `longest_s`.

    A machine that slept, a virtual one that was preempted and a process that was stopped and continued
    (SIGSTOP) all look alike: nothing read the clock meanwhile.
    """

    def __init__(self, longest_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._now = now
        self._last_s = now()
        self._awake_s = 0.0

    def read(self) -> float:
        """The time now; call it often."""
        now_s = self._now()
        self._awake_s += min(now_s - self._last_s, self._longest_s)
        self._last_s = now_s
        return self._awake_s
