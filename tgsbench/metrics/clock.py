"""Checks step times against the time stamps of their own events: a timer that starts late is noticed."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from tgsbench.schema.events import FirstStep, Step

_LEAST_SHARE = 0.97
"""Of the time from one step's stamp to the next (measured: 0.999)."""
_MOST_SHARE = 1.01
_BETWEEN_S = 0.005
"""A busy machine takes a rank off its core for milliseconds; without that, 0.3 ms lie between two steps."""


class RankClock(Struct, gc=False):
    """One rank's step seconds: as reported, and as its events' time stamps span them.

    A step that was reported twice counts once; profiled steps do not count.
    """

    step: int = -2
    t: float = 0.0
    num_steps: int = 0
    told_s: float = 0.0
    """Sum of step times."""
    passed_s: float = 0.0
    """From stamp to stamp, over the same steps."""

    def add(self, event: Step) -> None:
        """Add the rank's next step event."""
        if event.step <= self.step:
            return
        if event.step == self.step + 1 and event.phase != "profile" and event.t > self.t > 0:
            self.num_steps += 1
            self.told_s += event.step_s
            self.passed_s += event.t - self.t
        self.step, self.t = event.step, event.t

    def looked(self, event: FirstStep) -> None:
        """The next step begins after the look at the first one, which a busy machine draws out."""
        if self.num_steps == 0:
            self.t = max(self.t, event.t)


def disagreement(clocks: Mapping[int, RankClock]) -> str:
    """Names the first rank whose step seconds do not add up to those between its events; empty: none."""
    for rank, clock in sorted(clocks.items()):
        slack_s = _BETWEEN_S * clock.num_steps
        late = clock.told_s < _LEAST_SHARE * clock.passed_s - slack_s
        if late or clock.told_s > _MOST_SHARE * clock.passed_s + slack_s:
            return (
                f"rank {rank} tells of {clock.told_s:.3f} s in {clock.num_steps} steps, between whose events "
                f"{clock.passed_s:.3f} s passed"
            )
    return ""
