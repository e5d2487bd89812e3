"""Which setting to try next, and which to drop: successive halving with intervals. Pure: no clock, no IO.

A setting climbs a ladder of rungs, each dearer and surer than the one below, and only while it may still be
the fastest. The same outcomes in the same order ask the same trials, so a journal of outcomes is all that a
resumed tune needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from tgsbench.planner.interval import TIGHT_SHARE
from tgsbench.schema.preset import Preset
from tgsbench.tune.belief import Belief, MeasuredSpeed, beliefs
from tgsbench.tune.candidates import TunedSetting

Rung = Literal["length", "virtual", "emulated", "short", "long"]
"""What is run: two steps at a length (it tells whether that trains), one rank on a virtual GPU (it tells
whether a setting builds and fits in memory), one rank of the mesh emulated alone (it tells a TGS), or all
ranks, for few steps or for more."""
Evidence = Literal["measured", "emulated", "virtual", "planned"]
"""What a figure rests on, the surest first."""
Status = Literal["ok", "oom", "failed", "disturbed"]

SCREEN_SHARE = 0.6
"""Of the budget for short runs; then the finalists are measured longer and in turns, and what that leaves
goes to short runs again."""
MIN_GAIN = math.log(1.01)
"""A setting that will hardly be 1 % faster than the best one is not looked for."""
MAX_REPEATS = 6
"""Long runs of one finalist."""
SURE_WITHIN = math.log(1.01)
"""Half width of the interval of the last two settings' ratio that ends a tune."""
RUNS: tuple[Rung, ...] = ("short", "long")
"""What is tried where all ranks can be started."""
_EVIDENCE: dict[Rung, Evidence] = {
    "virtual": "virtual",
    "emulated": "emulated",
    "short": "measured",
    "long": "measured",
}
_SUREST: tuple[Evidence, ...] = ("measured", "emulated", "virtual", "planned")
_SUREST_RUNG: tuple[Rung, ...] = ("long", "short", "emulated", "virtual")
_RUN_SPREAD: dict[Rung, float] = {"virtual": 0.0, "emulated": 0.05, "short": 0.02, "long": 0.01}
"""Between runs of one setting, beside the spread of a run's own steps; of an emulated rank what its planned
communication may be off."""
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
    host_s: float | None = None
    """Processor time of the host in a step, where a virtual GPU told it."""
    run_id: str = ""
    reason: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """What is known of a candidate so far."""

    candidate: TunedSetting
    belief: Belief
    rests_on: Evidence
    rung: Rung | None = None
    """The kind of trial that its figure rests on: long runs alone where there are some."""
    runs: int = 0
    """Trials of that kind that said something."""
    failed: str = ""
    """Why it cannot be recommended."""


class OutcomesSeen(Struct, frozen=True, kw_only=True):
    """What all outcomes say together."""

    measured: dict[str, MeasuredSpeed]
    """By candidate, those that failed left out."""
    measured_long: dict[str, MeasuredSpeed]
    """The same of long runs alone."""
    failures: dict[str, str]
    """Why candidates cannot be recommended: they failed, or need more memory than one that ran out of it."""
    made: Counter[tuple[str, Rung]]
    """Trials by candidate and rung, however they ended."""
    held: Counter[tuple[str, Rung]]
    """Those of them that said something, of candidates that did not fail."""

    def rung(self, key: str) -> Rung | None:
        """The surest kind of trial that a candidate's figure rests on; None: not tried, or it failed."""
        return next((rung for rung in _SUREST_RUNG if self.held[key, rung]), None)

    def evidence(self, key: str) -> Evidence:
        """The surest that there is of a candidate."""
        rung = self.rung(key)
        return _EVIDENCE[rung] if rung else "planned"

    def of_long_runs(self, key: str) -> Belief | None:
        """What a candidate's long runs say, once there is one; no forecast and no short run moves that.

        A short one's three steps are among a run's first, which are slower: 3,410 TGS on two CPU ranks where
        two long runs of the same setting had 3,582 and 3,673.
        """
        found = self.measured_long.get(key)
        return None if found is None else Belief(found.log_tgs, found.sd)


class Tuner(Struct, kw_only=True):
    """Asks for trials and is told how they ended."""

    candidates: list[TunedSetting]
    stages: tuple[Rung, ...] = RUNS
    """Rungs of the ladder that can be climbed here, the cheapest first."""
    outcomes: list[TrialOutcome] = field(default_factory=list)
    before: list[TrialOutcome] = field(default_factory=list)
    """Trials that found the length: they say nothing of these settings and come out of the same budget."""

    @property
    def trials(self) -> list[TrialOutcome]:
        """All that was tried, in its order."""
        return [*self.before, *self.outcomes]

    @property
    def conclusion(self) -> str:
        """What it means that nothing more is asked."""
        return "nothing else is likely to be faster" if self.best else "every setting failed"

    def preset_of(self, trial: Trial) -> Preset:
        """What a trial is of."""
        return next(c.preset for c in self.candidates if c.key == trial.key)

    def expected_s(self, trial: Trial) -> float:
        """What such a trial took so far, 0 before any; a first long one at least what a short one does."""
        alike = [o.seconds for o in self.outcomes if o.rung == trial.rung]
        found = alike or [o.seconds for o in self.outcomes]
        return sum(found) / len(found) if found else max((o.seconds for o in self.before), default=0.0)

    def tell(self, outcome: TrialOutcome) -> None:
        """Take the end of a trial."""
        self.outcomes.append(outcome)

    def seen(self) -> OutcomesSeen:
        """Fold all outcomes."""
        failures = _failures(self.candidates, self.outcomes)
        held = [o for o in self.outcomes if o.status in ("ok", "disturbed") and o.key not in failures]
        return OutcomesSeen(
            measured=_speeds(held),
            measured_long=_speeds([outcome for outcome in held if outcome.rung == "long"]),
            failures=failures,
            made=Counter((outcome.key, outcome.rung) for outcome in self.outcomes),
            held=Counter((outcome.key, outcome.rung) for outcome in held),
        )

    def ask(self, spent_share: float = 0.0) -> Trial | None:
        """The next trial when this share of the budget is spent; None when enough is known."""
        seen = self.seen()
        if (again := self._disturbed(seen)) is not None:
            return again
        running = [candidate for candidate in self.candidates if candidate.key not in seen.failures]
        believed = _worth(running, beliefs(running, seen.measured))
        if spent_share < SCREEN_SHARE and (found := self._screen(seen, believed)) is not None:
            return found
        found = self._final(seen, believed) if "long" in self.stages else None
        return found or self._screen(seen, believed)  # finalists are decided: what is left is for the others

    def standings(self) -> list[Standing]:
        """All candidates: what was measured first, the fastest first; what failed last."""
        seen = self.seen()
        believed = beliefs(self.candidates, seen.measured)
        found = [
            Standing(
                candidate=candidate,
                belief=seen.of_long_runs(candidate.key) or believed[candidate.key],
                rests_on=seen.evidence(candidate.key),
                rung=(rung := seen.rung(candidate.key)),
                runs=seen.held[candidate.key, rung] if rung else 0,
                failed=seen.failures.get(candidate.key, ""),
            )
            for candidate in self.candidates
        ]
        return sorted(found, key=lambda s: (bool(s.failed), _SUREST.index(s.rests_on), -_sure_log(s)))

    @property
    def best(self) -> Standing | None:
        """The fastest by the surest evidence that there is; None before anything was tried and held."""
        found = self.standings()
        return found[0] if found and found[0].rests_on != "planned" and not found[0].failed else None

    def _disturbed(self, seen: OutcomesSeen) -> Trial | None:
        """A trial that something else disturbed is made again, so often."""
        last = self.outcomes[-1] if self.outcomes else None
        if last is None or last.status != "disturbed":
            return None
        disturbed = [outcome.key for outcome in self.outcomes if outcome.status == "disturbed"]
        is_busy = len(disturbed) > _MAX_DISTURBED and 2 * len(disturbed) > len(self.outcomes)
        if is_busy or disturbed.count(last.key) > _MAX_DISTURBED:
            return None
        return _trial(seen, last.key, last.rung)

    def _screen(self, seen: OutcomesSeen, believed: Mapping[str, Belief]) -> Trial | None:
        """The next rung of the candidate with the most to win; None when none will be faster beyond doubt."""
        ladder = [rung for rung in self.stages if rung != "long"]
        rungs = {key: next((r for r in ladder if not seen.made[key, r]), None) for key in believed}
        known = [belief.mean for key, belief in believed.items() if rungs[key] is None]
        open_ = {key: rung for key, rung in rungs.items() if rung is not None}
        if not open_:
            return None
        if ladder == ["virtual"]:  # it measures no speed: the best planned ones are tried until enough fit
            key = max(open_, key=lambda key: believed[key].mean)
            return None if len(known) >= _NUM_FINALISTS else _trial(seen, key, "virtual")
        key = max(open_, key=lambda key: (believed[key].most, key))
        is_hopeless = known and believed[key].most < max(known) + MIN_GAIN
        return None if is_hopeless else _trial(seen, key, open_[key])

    def _final(self, seen: OutcomesSeen, believed: Mapping[str, Belief]) -> Trial | None:
        """Finalists in turns: each round drops what is slower than the best beyond both intervals."""
        measured = [key for key in believed if seen.evidence(key) == "measured" and key in seen.measured]
        ranked = sorted(measured, key=lambda key: -believed[key].mean)
        if not ranked:
            return None
        best = believed[ranked[0]]
        finalists = [key for key in ranked[:_NUM_FINALISTS] if believed[key].most >= best.least]
        key = min(finalists, key=lambda key: (seen.made[key, "long"], ranked.index(key)))
        count = seen.made[key, "long"]
        if count >= MAX_REPEATS or (count and _is_decided(seen.measured, finalists)):
            return None
        return _trial(seen, key, "long")


def _trial(seen: OutcomesSeen, key: str, rung: Rung) -> Trial:
    return Trial(key=key, rung=rung, repeat=seen.made[key, rung])


def _speeds(outcomes: Sequence[TrialOutcome]) -> dict[str, MeasuredSpeed]:
    """Of each candidate the mean of its runs' logarithms, weighted by how well each knows."""
    sums: dict[str, tuple[float, float]] = {}
    for outcome in outcomes:
        if not outcome.tgs:
            continue
        between = _RUN_SPREAD[outcome.rung] if outcome.status == "ok" else _DISTURBED_SPREAD
        weight = 1.0 / (between**2 + (outcome.spread / 2) ** 2)
        total, weights = sums.get(outcome.key, (0.0, 0.0))
        sums[outcome.key] = total + weight * math.log(outcome.tgs), weights + weight
    return {key: MeasuredSpeed(total / weights, weights**-0.5) for key, (total, weights) in sums.items()}


def _failures(candidates: Sequence[TunedSetting], outcomes: Sequence[TrialOutcome]) -> dict[str, str]:
    failed = {o.key: o.reason or o.status for o in outcomes if o.status in ("oom", "failed")}
    by_key = {candidate.key: candidate for candidate in candidates}
    out = [by_key[o.key] for o in outcomes if o.status == "oom" and o.key in by_key]
    held_gib = max(
        (by_key[o.key].memory_gib for o in outcomes if o.status == "ok" and o.key in by_key), default=0.0
    )
    for candidate in candidates if out else ():
        leaner = next((other for other in out if _needs_more(candidate, other)), None)
        if leaner is not None and candidate.key not in failed and candidate.memory_gib > held_gib:
            failed[candidate.key] = f"planned to need more memory than {leaner.key}, which ran out of it"
    return failed


def _worth(candidates: Sequence[TunedSetting], believed: Mapping[str, Belief]) -> dict[str, Belief]:
    """Beliefs of what settings are ranked by: TGS, or tokens for a price."""
    return {c.key: Belief(believed[c.key].mean - c.price_log, believed[c.key].sd) for c in candidates}


def _sure_log(standing: Standing) -> float:
    """What it is ranked by: a tight plan that nobody measured by what it has for certain, as in a search."""
    at_risk = standing.candidate.is_tight and standing.rests_on == "planned"
    risk = math.log1p(-TIGHT_SHARE) if at_risk else 0.0
    return standing.belief.mean - standing.candidate.price_log + risk


def _needs_more(candidate: TunedSetting, other: TunedSetting) -> bool:
    """Is it planned to need at least what the other one does, on the same engine?"""
    same = candidate.knobs.get("engine.name") == other.knobs.get("engine.name")
    return same and candidate.key != other.key and candidate.memory_gib >= other.memory_gib > 0


def _is_decided(measured: Mapping[str, MeasuredSpeed], finalists: Sequence[str]) -> bool:
    """Is there one finalist left, or are the best two's ratios known to within 1 %?"""
    if len(finalists) < 2:
        return True
    first, second = (measured[key] for key in finalists[:2])
    arm = 2 * math.hypot(first.sd, second.sd)
    return arm <= SURE_WITHIN or abs(first.log_tgs - second.log_tgs) > arm
