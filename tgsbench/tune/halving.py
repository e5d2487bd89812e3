"""Which setting to measure next, and which to drop: successive halving with intervals. Pure: no clock, no IO.

The same outcomes in the same order ask the same trials, so a journal of outcomes is all that a resumed tune
needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, field

from tgsbench.planner.interval import TIGHT_SHARE
from tgsbench.tune.belief import Belief, MeasuredSpeed, beliefs
from tgsbench.tune.candidates import TunedSetting

Rung = Literal["short", "long"]
Status = Literal["ok", "oom", "failed", "disturbed"]

SCREEN_SHARE = 0.6
"""Of the budget for short runs; the rest measures the finalists longer and in turns."""
MIN_GAIN = math.log(1.01)
"""A setting that will hardly be 1 % faster than the best one is not looked for."""
MAX_REPEATS = 6
"""Long runs of one finalist."""
SURE_WITHIN = math.log(1.01)
"""Half width of the interval of the last two settings' ratio that ends a tune."""
_RUN_SPREAD = {"short": 0.02, "long": 0.01}
"""Between runs of one setting, beside the spread of a run's own steps."""
_DISTURBED_SPREAD = 0.1
"""What a run says that something else disturbed: little."""
_NUM_FINALISTS = 4
_MAX_DISTURBED = 2
"""Times that a disturbed trial is made again; none where half of all are: the machine is busy."""


class Trial(Struct, frozen=True, kw_only=True):
    """One run to make."""

    key: str
    rung: Rung
    repeat: int = 0


class TrialOutcome(Struct, frozen=True, kw_only=True):
    """How a trial ended."""

    key: str
    rung: Rung
    repeat: int = 0
    status: Status
    tgs: float | None = None
    """Median tokens per GPU per second."""
    spread: float = 0.0
    """Half width of the median's interval, as a share of it."""
    seconds: float = 0.0
    """What the trial cost, start and end included."""
    mem_gib: float | None = None
    run_id: str = ""
    reason: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """What is known of a candidate so far."""

    candidate: TunedSetting
    belief: Belief
    rests_on: Literal["measured", "planned"]
    runs: int = 0
    failed: str = ""
    """Why it cannot be recommended."""


class Tuner(Struct, kw_only=True):
    """Asks for trials and is told how they ended."""

    candidates: list[TunedSetting]
    outcomes: list[TrialOutcome] = field(default_factory=list)
    has_ended: bool = False
    """Screening is over: nothing that was not measured is likely to be faster."""

    def tell(self, outcome: TrialOutcome) -> None:
        """Take the end of a trial."""
        self.outcomes.append(outcome)

    def ask(self, spent: float = 0.0) -> Trial | None:
        """The next trial when this share of the budget is spent; None when enough is known."""
        if (again := self._disturbed()) is not None:
            return again
        believed = beliefs(self._running(), self.measured())
        if not self.has_ended and spent < SCREEN_SHARE:
            if (found := self._screen(believed)) is not None:
                return found
            self.has_ended = True
        return self._final(believed)

    def measured(self) -> dict[str, MeasuredSpeed]:
        """What runs said of each candidate: the mean of their logarithms, weighted by how well each knows."""
        sums: dict[str, tuple[float, float]] = {}
        for outcome in self.outcomes:
            if outcome.status not in ("ok", "disturbed") or not outcome.tgs:
                continue
            between = _RUN_SPREAD[outcome.rung] if outcome.status == "ok" else _DISTURBED_SPREAD
            weight = 1.0 / (between**2 + (outcome.spread / 2) ** 2)
            total, weights = sums.get(outcome.key, (0.0, 0.0))
            sums[outcome.key] = total + weight * math.log(outcome.tgs), weights + weight
        failed = self.failures()
        return {
            key: MeasuredSpeed(total / weights, weights**-0.5)
            for key, (total, weights) in sums.items()
            if key not in failed
        }

    def failures(self) -> dict[str, str]:
        """Candidates that failed, and those that need more memory than one that ran out of it: why."""
        failed = {o.key: o.reason or o.status for o in self.outcomes if o.status in ("oom", "failed")}
        by_key = {candidate.key: candidate for candidate in self.candidates}
        out = [by_key[o.key] for o in self.outcomes if o.status == "oom" and o.key in by_key]
        ran = [by_key[o.key].memory_gib for o in self.outcomes if o.status == "ok" and o.key in by_key]
        for candidate in self.candidates:
            leaner = next((other for other in out if _needs_more(candidate, other)), None)
            if (
                leaner is not None
                and candidate.key not in failed
                and candidate.memory_gib > max(ran, default=0)
            ):
                failed[candidate.key] = f"planned to need more memory than {leaner.key}, which ran out of it"
        return failed

    def standings(self) -> list[Standing]:
        """All candidates: what was measured first, the fastest first; what failed last."""
        failed, measured = self.failures(), self.measured()
        believed = beliefs(self.candidates, measured)
        runs = [outcome.key for outcome in self.outcomes if outcome.status in ("ok", "disturbed")]
        found = [
            Standing(
                candidate=candidate,
                belief=believed[candidate.key],
                rests_on="measured" if candidate.key in measured else "planned",
                runs=runs.count(candidate.key),
                failed=failed.get(candidate.key, ""),
            )
            for candidate in self.candidates
        ]
        return sorted(found, key=lambda s: (bool(s.failed), s.rests_on == "planned", -_sure_log(s)))

    @property
    def best(self) -> Standing | None:
        """The fastest setting that was measured and never failed."""
        found = self.standings()
        return found[0] if found and found[0].rests_on == "measured" and not found[0].failed else None

    def _running(self) -> list[TunedSetting]:
        failed = self.failures()
        return [candidate for candidate in self.candidates if candidate.key not in failed]

    def _disturbed(self) -> Trial | None:
        """A trial that something else disturbed is made again, so often."""
        last = self.outcomes[-1] if self.outcomes else None
        if last is None or last.status != "disturbed":
            return None
        disturbed = [outcome.key for outcome in self.outcomes if outcome.status == "disturbed"]
        is_busy = len(disturbed) > _MAX_DISTURBED and 2 * len(disturbed) > len(self.outcomes)
        return (
            None
            if is_busy or disturbed.count(last.key) > _MAX_DISTURBED
            else self._trial(last.key, last.rung)
        )

    def _screen(self, believed: dict[str, Belief]) -> Trial | None:
        """The untried candidate with the most to win; None when none will be faster beyond its interval."""
        tried = {outcome.key for outcome in self.outcomes}
        known = [belief.mean for key, belief in believed.items() if key in tried]
        open_ = [(belief.high, key) for key, belief in believed.items() if key not in tried]
        if not open_:
            return None
        high, key = max(open_)
        return None if known and high < max(known) + MIN_GAIN else self._trial(key, "short")

    def _final(self, believed: dict[str, Belief]) -> Trial | None:
        """Finalists in turns: each round drops what is slower than the best beyond both intervals."""
        measured = self.measured()
        ranked = sorted((key for key in believed if key in measured), key=lambda key: -believed[key].mean)
        if not ranked:
            return None
        best = believed[ranked[0]]
        finalists = [key for key in ranked[:_NUM_FINALISTS] if believed[key].high >= best.low]
        counts = {key: self._long_runs(key) for key in finalists}
        key = min(finalists, key=lambda key: (counts[key], ranked.index(key)))
        if counts[key] >= MAX_REPEATS or (counts[key] and _is_decided(measured, finalists)):
            return None
        return self._trial(key, "long")

    def _long_runs(self, key: str) -> int:
        return sum(o.key == key and o.rung == "long" for o in self.outcomes)

    def _trial(self, key: str, rung: Rung) -> Trial:
        repeat = sum(outcome.key == key and outcome.rung == rung for outcome in self.outcomes)
        return Trial(key=key, rung=rung, repeat=repeat)


def _sure_log(standing: Standing) -> float:
    """What it is ranked by: a tight plan that nobody measured by what it has for certain, as in a search."""
    at_risk = standing.candidate.is_tight and standing.rests_on == "planned"
    return standing.belief.mean + (math.log1p(-TIGHT_SHARE) if at_risk else 0.0)


def _needs_more(candidate: TunedSetting, other: TunedSetting) -> bool:
    """Is it planned to need at least what the other one does, on the same engine?"""
    same = candidate.knobs.get("engine.name") == other.knobs.get("engine.name")
    return same and candidate.key != other.key and candidate.memory_gib >= other.memory_gib > 0


def _is_decided(measured: dict[str, MeasuredSpeed], finalists: Sequence[str]) -> bool:
    """Is there one finalist left, or are the best two's ratios known to within 1 %?"""
    if len(finalists) < 2:
        return True
    first, second = (measured[key] for key in finalists[:2])
    arm = 2 * math.hypot(first.sd, second.sd)
    return arm <= SURE_WITHIN or abs(first.log_tgs - second.log_tgs) > arm
