"""What a tune found: the best setting and the runner-up, what each row rests on, what each knob gave."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from tgsbench.metrics import figures
from tgsbench.metrics import ratio as ratios
from tgsbench.metrics.ratio import Ratio
from tgsbench.schema.forecast import Cost
from tgsbench.tune.belief import Z80
from tgsbench.tune.candidates import LongestSeen, Space
from tgsbench.tune.halving import Evidence, OutcomesSeen, Rung, Standing, Status, TrialOutcome, Tuner

ROWS = 20
"""Rows of the table; failures and measured ones beyond it are kept in the journal."""


class SettingRow(Struct, frozen=True, kw_only=True):
    """One setting."""

    change: list[str]
    """Assignments for --set."""
    tgs: float
    """Tokens per GPU per second; 0 where no speed is known."""
    low: float
    high: float
    """80 % interval of `tgs`."""
    rests_on: Evidence
    runs: int
    """Trials that the figure rests on, all of one kind: where a setting ran long, no short run counts."""
    disturbed: int
    """Of these, those that something else disturbed: they count little."""
    rung: Rung | None = None
    """Their kind; None: none."""
    planned_tgs: float | None
    """The planner's figure before anything was measured."""
    memory_gib: float | None
    """Measured or emulated where it was tried, else planned."""
    host_s: float | None = None
    """Processor seconds of the host in a step, where a virtual GPU told them."""
    cost: Cost | None = None
    failed: str = ""
    """Why it cannot be recommended."""
    status: Status | None = None
    """How its last trial ended; None: there was none."""
    is_tight: bool = False
    """Planned so near the card's memory that it may cost speed, or not fit."""
    is_efficient: bool = False
    """No other setting that was tried is faster, leaner and cheaper by the hour."""


class Effect(Struct, frozen=True, kw_only=True):
    """What one knob of the best setting gives: its TGS over that with this knob alone another way."""

    knob: str
    best: str
    other: str
    ratio: float
    low: float
    high: float
    """80 % interval of `ratio`."""
    rests_on: Evidence


class Verdict(Struct, frozen=True, kw_only=True):
    """The end of a tune."""

    best: SettingRow | None
    """By the surest evidence that there is; None: nothing was tried."""
    runner_up: SettingRow | None
    ratio: Ratio | None
    """The best over the runner-up, from runs that took turns."""
    rows: list[SettingRow]
    effects: list[Effect]
    num_planned: int
    num_candidates: int
    dropped: dict[str, int]
    num_trials: int
    spent_s: float
    ended: str
    """Why no further trial was made."""
    longest: LongestSeen | None = None
    """The length of all rows, where the longest was looked for."""

    @property
    def chosen(self) -> SettingRow | None:
        """What to run: the best; else what trained at the longest sequence; else the first as planned."""
        if self.best is not None:
            return self.best
        if self.longest is not None and self.longest.is_measured:
            return _trained(self.longest) if self.longest.seq_len else None
        return next((row for row in self.rows if not row.failed), None)


def verdict_of(space: Space, tuner: Tuner, ended: str) -> Verdict:
    """Put the state of a tune together, whether it has ended or goes on."""
    standings, seen = tuner.standings(), tuner.seen()
    lean = _efficient(standings, tuner.outcomes)
    rows = [_row(s, tuner.outcomes, s.candidate.key in lean) for s in standings]
    surest = rows[0].rests_on if rows else "planned"
    tried = [row for row in rows if row.rests_on == surest != "planned" and not row.failed]
    best, runner_up = (tried[index] if len(tried) > index else None for index in (0, 1))
    pair = [s.candidate.key for s in standings[: 2 if runner_up else 0] if s.candidate.key in seen.measured]
    failed = [row for row in rows if row.failed and row.rests_on == "planned"]
    shown = [row for row in rows if row not in failed][:ROWS] + failed[:ROWS]
    return Verdict(
        best=best,
        runner_up=runner_up,
        ratio=_ratio(pair, tuner.outcomes, seen) if len(pair) == 2 else None,
        rows=shown,
        effects=_effects(standings) if best else [],
        num_planned=space.num_planned,
        num_candidates=len(space.candidates),
        dropped=space.dropped,
        num_trials=len(tuner.trials),
        spent_s=sum(outcome.seconds for outcome in tuner.trials),
        ended=ended,
        longest=space.longest,
    )


def _trained(seen: LongestSeen) -> SettingRow:
    """The way that the longest sequence trained with; two steps say no speed."""
    return SettingRow(
        change=seen.change, tgs=0.0, low=0.0, high=0.0, rests_on="measured", rung="length", runs=1,
        disturbed=0, planned_tgs=None, memory_gib=None,
    )  # fmt: skip


def _row(standing: Standing, outcomes: Sequence[TrialOutcome], is_efficient: bool) -> SettingRow:
    candidate, belief = standing.candidate, standing.belief
    own = [outcome for outcome in outcomes if outcome.key == candidate.key]
    # Counted work alone says which way is faster, and no figure until something was measured beside it.
    knows_speed = candidate.forecast is not None or any(outcome.tgs for outcome in outcomes)
    tgs, low, high = (math.exp(x) if knows_speed else 0.0 for x in (belief.mean, belief.low, belief.high))
    if candidate.forecast is not None and not any(outcome.tgs for outcome in outcomes):
        low, high = candidate.forecast.low, candidate.forecast.high
    return SettingRow(
        change=candidate.change,
        tgs=tgs,
        low=low,
        high=high,
        rests_on=standing.rests_on,
        runs=standing.runs,
        disturbed=sum(o.status == "disturbed" and o.rung == standing.rung for o in own),
        rung=standing.rung,
        planned_tgs=candidate.forecast.estimate if candidate.forecast else None,
        memory_gib=_memory(standing, outcomes),
        host_s=next((outcome.host_s for outcome in own if outcome.host_s is not None), None),
        cost=figures.cost_of(tgs, candidate.usd_per_hour) if candidate.usd_per_hour and tgs else None,
        failed=standing.failed,
        status=own[-1].status if own else None,
        is_tight=candidate.is_tight,
        is_efficient=is_efficient,
    )


def _memory(standing: Standing, outcomes: Sequence[TrialOutcome]) -> float | None:
    key = standing.candidate.key
    seen = [o.mem_gib for o in outcomes if o.key == key and o.mem_gib is not None]
    return max(seen) if seen else standing.candidate.memory_gib or None


def _efficient(standings: Sequence[Standing], outcomes: Sequence[TrialOutcome]) -> set[str]:
    """Pareto front of what was tried: TGS against memory and the price of an hour."""
    points = {
        s.candidate.key: (-s.belief.mean, memory, s.candidate.usd_per_hour)
        for s in standings
        if s.rests_on in ("measured", "emulated")
        and not s.failed
        and (memory := _memory(s, outcomes)) is not None
    }
    return {key for key, mine in points.items() if not any(_beats(other, mine) for other in points.values())}


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Is it nowhere worse and somewhere better?"""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _ratio(keys: Sequence[str], outcomes: Sequence[TrialOutcome], seen: OutcomesSeen) -> Ratio:
    runs = [
        [o.tgs for o in outcomes if o.key == key and o.rung == "long" and o.status == "ok" and o.tgs]
        for key in keys
    ]
    if all(len(found) > 1 for found in runs):
        return ratios.of_runs(runs[0], runs[1])
    first, second = (seen.measured[key] for key in keys)
    arm, value = 1.96 * math.hypot(first.sd, second.sd), math.exp(first.log_tgs - second.log_tgs)
    return Ratio(
        value=value,
        ci95=(value * math.exp(-arm), value * math.exp(arm)),
        method="single runs, the usual spread between runs",
    )


def _effects(standings: Sequence[Standing]) -> list[Effect]:
    """Of each knob the fastest other way, all else as in the best setting."""
    best, found = standings[0], dict[str, Effect]()
    for other in standings[1:]:
        mine, theirs = best.candidate.knobs, other.candidate.knobs
        differing = [k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)]
        if other.failed or len(differing) != 1 or differing[0] in found:
            continue
        if other.rests_on not in ("measured", "emulated") and other.candidate.forecast is None:
            continue
        log, arm = best.belief.mean - other.belief.mean, math.hypot(best.belief.sd, other.belief.sd) * Z80
        knob = differing[0]
        found[knob] = Effect(
            knob=knob,
            best=mine.get(knob, "off"),
            other=theirs.get(knob, "off"),
            ratio=math.exp(log),
            low=math.exp(log - arm),
            high=math.exp(log + arm),
            rests_on=other.rests_on,
        )
    return sorted(found.values(), key=lambda effect: -effect.ratio)
