"""What measurements say of settings that were not measured: forecasts corrected by a Gaussian process.

The unknown is the logarithm of TGS over what is planned, or over what counted work would take at guessed
rates. Settings share errors of the plan: their covariance is what all share, what the same kinds of work in
their steps share, what equal knobs share, and what is a setting's own. Few measurements so move the forecasts
of all, each by as much as it has in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import eq, mul
from typing import NamedTuple

from msgspec import Struct

from tgsbench.tune.candidates import TunedSetting

Z80 = 1.2816
"""Half of an 80 % interval, in standard deviations."""
Z95 = 1.96
"""Of a 95 % one."""


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

    @property
    def least(self) -> float:
        """Lower end of the 95 % interval, within which nothing is dropped."""
        return self.mean - Z95 * self.sd

    @property
    def most(self) -> float:
        """Upper end of it. Of hundreds of settings some beat their 80 % interval: the best is among those."""
        return self.mean + Z95 * self.sd


class MeasuredSpeed(Struct, frozen=True):
    """Logarithm of a measured TGS and its standard deviation."""

    log_tgs: float
    sd: float


class _Prior(Struct, frozen=True):
    """Standard deviations of the plan's error."""

    shared: float
    """Of all settings alike: the machine is faster or slower than planned."""
    rates: float
    """Of what each kind of work costs: it moves a setting by the share that this work has of its step."""
    knob: float
    """Of those with one equal knob, for each such knob: however many others there are."""
    pairs: float
    """In proportion to pairs of equal knobs: one knob's effect depends on another."""
    own: float
    """Of each setting alone."""


_PLANNED = _Prior(shared=0.12, rates=0.15, knob=0.04, pairs=0.06, own=0.02)
"""Beside the planner's own figure: of stacks never seen it is 6 % off in the mean, 10 % between sources."""
_COUNTED = _Prior(shared=2.0, rates=0.7, knob=0.1, pairs=0.15, own=0.1)
"""Where work is counted and its rates are guessed: they may be half or double, nobody knows the level."""


def beliefs(candidates: Sequence[TunedSetting], measured: Mapping[str, MeasuredSpeed]) -> dict[str, Belief]:
    """What is believed of each candidate's log TGS, by key, after these measurements."""
    names = sorted({name for candidate in candidates for name in candidate.knobs})
    points = [_point(candidate, names) for candidate in candidates]
    prior = _PLANNED if all(c.forecast for c in candidates) else _COUNTED
    known = [point for point in points if point.key in measured]
    rows = [[_covariance(a, b, prior) for b in known[: i + 1]] for i, a in enumerate(known)]
    for row, point in zip(rows, known, strict=True):
        row[-1] += measured[point.key].sd ** 2
    factor = _cholesky(rows)
    half = _forward(factor, [measured[point.key].log_tgs - point.counted_log for point in known])
    return {point.key: _belief(point, known, factor, half, prior) for point in points}


class _Point(NamedTuple):
    """A candidate with its knobs in one order."""

    key: str
    values: tuple[str | None, ...]
    time_shares: tuple[float, ...]
    counted_log: float


def _point(candidate: TunedSetting, names: Sequence[str]) -> _Point:
    values = tuple(map(candidate.knobs.get, names))
    return _Point(candidate.key, values, candidate.time_shares, candidate.counted_log)


def _belief(
    point: _Point, known: Sequence[_Point], factor: list[list[float]], half: Sequence[float], prior: _Prior
) -> Belief:
    cross = _forward(factor, [_covariance(point, other, prior) for other in known])
    variance = _covariance(point, point, prior) - sum(map(mul, cross, cross))
    shift = sum(map(mul, cross, half))
    return Belief(point.counted_log + shift, math.sqrt(max(variance, 1e-12)))


def _covariance(a: _Point, b: _Point, prior: _Prior) -> float:
    num_equal: int = sum(map(eq, a.values, b.values))
    equal: float = num_equal / (len(a.values) or 1)
    alike: float = sum(map(mul, a.time_shares, b.time_shares))
    own = prior.own**2 if a.key == b.key else 0.0
    of_knobs = prior.knob**2 * num_equal + prior.pairs**2 * equal**2
    return prior.shared**2 + prior.rates**2 * alike + of_knobs + own


def _cholesky(rows: list[list[float]]) -> list[list[float]]:
    """Lower triangle of the factor of a symmetric matrix that is given by its lower triangle."""
    factor: list[list[float]] = []
    for i, row in enumerate(rows):
        made: list[float] = []
        for j in range(i + 1):
            rest = row[j] - sum(map(mul, made, factor[j] if j < i else made))
            made.append(math.sqrt(max(rest, 1e-12)) if i == j else rest / factor[j][j])
        factor.append(made)
    return factor


def _forward(factor: list[list[float]], right: Sequence[float]) -> list[float]:
    """Solve factor · x = right."""
    found: list[float] = []
    for row, value in zip(factor, right, strict=True):
        found.append((value - sum(map(mul, row, found))) / row[-1])
    return found
