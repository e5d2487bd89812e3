"""What measurements say of settings that were not measured: forecasts corrected by a Gaussian process.

The unknown is the logarithm of TGS over what is planned (over 1 without a plan). Settings that share knobs
share errors of the plan: their covariance is what all share, what equal knobs share, and what is a
setting's own. Few measurements so move the forecasts of all, each by as much as it has in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from tgsbench.tune.candidates import TunedSetting

Z80 = 1.2816
"""Half of an 80 % interval, in standard deviations."""


class Belief(Struct, frozen=True):
    """Logarithm of a setting's TGS."""

    mean: float
    sd: float

    @property
    def low(self) -> float:
        """Lower end of the 80 % interval, still a logarithm."""
        return self.mean - Z80 * self.sd

    @property
    def high(self) -> float:
        """Upper end of the 80 % interval, still a logarithm."""
        return self.mean + Z80 * self.sd


class MeasuredSpeed(Struct, frozen=True):
    """Logarithm of a measured TGS and its standard deviation."""

    log_tgs: float
    sd: float


class _Prior(Struct, frozen=True):
    """Standard deviations of the plan's error."""

    shared: float
    """Of all settings alike: the machine is faster or slower than planned."""
    knobs: float
    """Of those with equal knobs, in proportion to how many are."""
    pairs: float
    """The same in proportion to pairs of equal knobs: one knob's effect depends on another."""
    own: float
    """Of each setting alone."""


_PLANNED = _Prior(0.15, 0.08, 0.06, 0.02)
"""Beside the planner's own figure: of stacks never seen it is 6 % off in the mean, 10 % between sources."""
_UNPLANNED = _Prior(0.0, 0.6, 0.4, 0.05)
"""Where nothing is planned the knobs are all there is; the level is the mean of what was measured."""


def beliefs(candidates: Sequence[TunedSetting], measured: Mapping[str, MeasuredSpeed]) -> dict[str, Belief]:
    """What is believed of each candidate's log TGS, by key, after these measurements."""
    known = [c for c in candidates if c.key in measured]
    planned = all(c.forecast for c in candidates)
    prior, level = (_PLANNED, 0.0) if planned else (_UNPLANNED, _level(measured))
    errors = [measured[c.key].log_tgs - _planned_log(c, level) for c in known]
    noise = [measured[c.key].sd ** 2 for c in known]
    rows = [[_covariance(a, b, prior) for b in known[: i + 1]] for i, a in enumerate(known)]
    for i, row in enumerate(rows):
        row[i] += noise[i]
    factor = _cholesky(rows)
    half = _forward(factor, errors)
    found = {}
    for candidate in candidates:
        cross = _forward(factor, [_covariance(candidate, other, prior) for other in known])
        variance = _covariance(candidate, candidate, prior) - sum(x * x for x in cross)
        shift = sum(x * y for x, y in zip(cross, half, strict=True))
        found[candidate.key] = Belief(_planned_log(candidate, level) + shift, math.sqrt(max(variance, 1e-12)))
    return found


def _level(measured: Mapping[str, MeasuredSpeed]) -> float:
    return sum(m.log_tgs for m in measured.values()) / len(measured) if measured else 0.0


def _planned_log(candidate: TunedSetting, level: float) -> float:
    return math.log(candidate.forecast.estimate) if candidate.forecast else level


def _covariance(a: TunedSetting, b: TunedSetting, prior: _Prior) -> float:
    names = a.knobs.keys() | b.knobs.keys()
    equal = sum(a.knobs.get(name) == b.knobs.get(name) for name in names) / len(names)
    own = prior.own**2 if a is b or a.knobs == b.knobs else 0.0
    return prior.shared**2 + prior.knobs**2 * equal + prior.pairs**2 * equal**2 + own


def _cholesky(rows: list[list[float]]) -> list[list[float]]:
    """Lower triangle of the factor of a symmetric matrix that is given by its lower triangle."""
    factor: list[list[float]] = []
    for i, row in enumerate(rows):
        made: list[float] = []
        for j in range(i + 1):
            rest = row[j] - sum(made[k] * (factor[j][k] if j < i else made[k]) for k in range(j))
            made.append(math.sqrt(max(rest, 1e-12)) if i == j else rest / factor[j][j])
        factor.append(made)
    return factor


def _forward(factor: list[list[float]], right: Sequence[float]) -> list[float]:
    """Solve factor · x = right."""
    found: list[float] = []
    for row, value in zip(factor, right, strict=True):
        rest = value - sum(a * x for a, x in zip(row, found, strict=False))
        found.append(rest / row[-1])
    return found
