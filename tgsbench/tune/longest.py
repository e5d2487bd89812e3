"""The longest sequence that really trains, before what is fastest at that length is looked for. Pure.

One way of training, the leanest as planned, is run for two steps at a length; the next length follows from
how that ended. All comes out of the tune's budget, and what is left of it is for settings at that length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from tgsbench import units
from tgsbench.launch.max_seq_len import granule_of, next_length, with_length
from tgsbench.planner.search import MAX_SEQ_LEN, assignments_of
from tgsbench.schema.preset import Preset
from tgsbench.tune.candidates import LongestSeen
from tgsbench.tune.halving import Trial, TrialOutcome
from tgsbench.tune.journal import Asked

KEY = "workload.seq_len"
SEARCH_SHARE = 0.5
"""Of the budget that finding the length may cost."""
_SETTINGS_AFTER = 2
"""Settings that must still fit into the budget at a length that is tried: with fewer nothing is compared."""
_STEPS, _SHORT_STEPS = 2, 4
"""Steps of a run at a length, and of a setting's short run, those of warm-up included."""


class LengthSearch(Struct, kw_only=True):
    """Asks for runs at lengths and is told how they ended; the same outcomes ask the same runs."""

    preset: Preset
    """The way, at the length where the search begins."""
    change: list[str]
    """The way, as assignments."""
    budget_s: float
    """Of the whole tune."""
    outcomes: list[TrialOutcome] = field(default_factory=list)

    def tell(self, outcome: TrialOutcome) -> None:
        """Take the end of a run."""
        self.outcomes.append(outcome)

    def ask(self, _spent_share: float = 0.0) -> Trial | None:
        """The next length; None when the longest is known, or none longer would end in time."""
        length = self._next()
        if length is None or self._broken or not self._in_time(length):
            return None
        return Trial(key=f"{KEY}={length}", rung="length")

    def preset_of(self, trial: Trial) -> Preset:
        """What a trial is of."""
        return with_length(self.preset, length_of(trial.key))

    def expected_s(self, trial: Trial) -> float:
        """Seconds that a run takes: 0 before the first."""
        return self._seconds(length_of(trial.key), _STEPS)

    @property
    def seen(self) -> LongestSeen:
        """The longest so far."""
        return LongestSeen(
            seq_len=self._longest.length if self._longest else None,
            too_long=self._too_long,
            change=self.change,
            is_measured=True,
            why=self.conclusion if self.ask() is None else "",
        )

    @property
    def conclusion(self) -> str:
        """Why no longer one is tried."""
        if self._broken is not None:
            return f"{units.length(length_of(self._broken.key))}: {self._broken.reason}"
        if (length := self._next()) is not None:
            return f"{units.length(length)} would leave too little of the budget"
        return f"{units.length(self._too_long)}: out of memory" if self._too_long else "the limit is reached"

    @property
    def _broken(self) -> TrialOutcome | None:
        """A run that ended for another reason than memory: lengths say nothing of that."""
        return next((outcome for outcome in self.outcomes if outcome.status == "failed"), None)

    def _next(self) -> int | None:
        start = self.preset.workload.seq_len
        return next_length(self._trains(), start, MAX_SEQ_LEN, granule_of(self.preset))

    def _trains(self) -> dict[int, bool]:
        return {length_of(o.key): o.status in ("ok", "disturbed") for o in self.outcomes}

    def _in_time(self, length: int) -> bool:
        """Would it end within the search's share, and leave time for settings at that length?"""
        run_s, setting_s = self._seconds(length, _STEPS), self._seconds(length, _SHORT_STEPS)
        left_s = self.budget_s - sum(outcome.seconds for outcome in self.outcomes) - run_s
        is_first = not self.outcomes
        return is_first or left_s >= max(self.budget_s * (1 - SEARCH_SHARE), _SETTINGS_AFTER * setting_s)

    @property
    def _too_long(self) -> int | None:
        """The shortest that did not train."""
        return min((length for length, trains in self._trains().items() if not trains), default=None)

    @property
    def _longest(self) -> _Trained | None:
        found = [_trained(self.preset, o) for o in self.outcomes if o.status in ("ok", "disturbed")]
        return max(found, key=lambda one: one.length, default=None)

    def _seconds(self, length: int, steps: int) -> float:
        """Of so many steps, start and end included; a step takes at most the square of its length longer."""
        if (known := self._longest) is None:
            return max((outcome.seconds for outcome in self.outcomes), default=0.0)
        longer = max(1.0, length / known.length)
        return known.start_s + steps * known.step_s * longer**2


class _Trained(Struct, frozen=True):
    """A length that trained, the seconds of its start and end, and of a step."""

    length: int
    start_s: float
    step_s: float


def _trained(preset: Preset, outcome: TrialOutcome) -> _Trained:
    length = length_of(outcome.key)
    at_length = with_length(preset, length)
    step_s = at_length.tokens_per_step / at_length.world_size / outcome.tgs if outcome.tgs else 0.0
    step_s = min(step_s, outcome.seconds / _STEPS)
    return _Trained(length, outcome.seconds - _STEPS * step_s, step_s)


class PlannedLength(Struct, frozen=True, kw_only=True):
    """The longest sequence as planned."""

    preset: Preset
    """The leanest way, at that length."""
    own: int
    """The length, in tokens, that the preset itself has."""
    step_s: float | None
    """Of a step at that length; None where no speed is planned."""

    @property
    def seen(self) -> LongestSeen:
        """As it is told where nothing is run."""
        length, change = self.preset.workload.seq_len, assignments_of(self.preset)
        return LongestSeen(seq_len=length, change=change, is_measured=False)

    def search(self, budget_s: float, outcomes: Sequence[TrialOutcome] = ()) -> LengthSearch:
        """The search by runs in a tune's budget, after these."""
        workload = replace(self.preset.workload, seq_len=self._start(budget_s))
        start = replace(self.preset, workload=workload)
        change = assignments_of(start)
        return LengthSearch(preset=start, change=change, budget_s=budget_s, outcomes=[*outcomes])

    def _start(self, budget_s: float) -> int:
        """Tokens: what is planned to fit, as far as it is planned to end in time; else the preset's own.

        Memory bounds a GPU's runs, so they begin where it is planned to end; a CPU's are bounded by time.
        """
        if self.step_s is None:
            return self.own
        run_s = _STEPS * self.step_s
        shorter = min(1.0, math.sqrt(budget_s * SEARCH_SHARE / run_s)) if run_s > 0 else 1.0
        return max(1, int(self.preset.workload.seq_len * shorter))


def split(outcomes: Sequence[TrialOutcome]) -> tuple[list[TrialOutcome], list[TrialOutcome]]:
    """Those that found a length, and those of settings."""
    of_length = [outcome for outcome in outcomes if outcome.rung == "length"]
    return of_length, [outcome for outcome in outcomes if outcome.rung != "length"]


def at_length(asked: Asked, seq_len: int) -> Asked:
    """The question at a length, in place of its own."""
    kept = [text for text in asked.assignments if not text.startswith(f"{KEY}=")]
    return replace(asked, assignments=[*kept, f"{KEY}={seq_len}"])


def length_of(key: str) -> int:
    """Tokens of a trial's key. Raises ValueError for what is none."""
    return int(key.removeprefix(f"{KEY}="))
