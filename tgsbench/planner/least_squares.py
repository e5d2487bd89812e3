"""Least squares in pure Python: a few positive constants, robust to outliers, held by a prior.

The base install has no numpy, and seven constants on a hundred rows need none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

Residuals = Callable[[list[float]], list[float]]
"""Constants -> ln(predicted / measured) of every row."""

_HUBER = 0.05
"""Residuals beyond 5 % count linearly: a row with a cause of its own does not bend the constants."""
_STEP = 1e-4


class Fitted(Struct, frozen=True):
    """Fitted constants and what they leave."""

    values: list[float]
    residuals: list[float]


def fit(
    residuals: Residuals, start: Sequence[float], prior_sigma: Sequence[float], rounds: int = 40
) -> Fitted:
    """Minimise Huber(residuals) + prior by Levenberg-Marquardt over the constants' logarithms.

    `prior_sigma` is how far, in e-folds, a constant may lie from its start at the cost of one row that is
    off by 2 %.
    """
    origin = [math.log(value) for value in start]

    def cost_rows(x: list[float]) -> list[float]:
        rows = [_huber(r) for r in residuals([math.exp(v) for v in x])]
        return rows + [0.02 * (v - o) / sigma for v, o, sigma in zip(x, origin, prior_sigma, strict=True)]

    x, damping = list(origin), 1e-2
    rows = cost_rows(x)
    for _ in range(rounds):
        step = _newton_step(cost_rows, x, rows, damping)
        tried = [v + s for v, s in zip(x, step, strict=True)]
        new_rows = cost_rows(tried)
        gain = _square(rows) - _square(new_rows)
        if gain > 0:
            x, rows, damping = tried, new_rows, max(damping / 3, 1e-7)
            if gain < 1e-10 * _square(rows):
                break
        else:
            damping *= 4
    values = [math.exp(v) for v in x]
    return Fitted(values, residuals(values))


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small symmetric positive system by Gaussian elimination with pivoting."""
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, n):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    out = [0.0] * n
    for i in reversed(range(n)):
        known = sum(rows[i][j] * out[j] for j in range(i + 1, n))
        out[i] = (rows[i][n] - known) / rows[i][i]
    return out


def _newton_step(
    cost_rows: Callable[[list[float]], list[float]], x: list[float], rows: list[float], damping: float
) -> list[float]:
    columns = []
    for i in range(len(x)):
        moved = list(x)
        moved[i] += _STEP
        columns.append([(b - a) / _STEP for a, b in zip(rows, cost_rows(moved), strict=True)])
    normal = [[_dot(a, b) for b in columns] for a in columns]
    for i, row in enumerate(normal):
        row[i] += damping * row[i] + 1e-12
    return solve(normal, [-_dot(column, rows) for column in columns])


def _huber(r: float) -> float:
    """A residual whose square is Huber's loss."""
    size = abs(r)
    return r if size <= _HUBER else math.copysign(math.sqrt(2 * _HUBER * size - _HUBER**2), r)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def _square(rows: Sequence[float]) -> float:
    return _dot(rows, rows)
