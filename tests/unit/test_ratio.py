from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgsbench.metrics import ratio
from tgsbench.metrics.ratio import Ratio, mann_whitney, of_medians, of_pairs, student_t975, verdict

samples = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=5)


def brute_force_p(a, b):
    """Every way to deal the pooled values, counted by U (ties half), both tails."""

    def u(first, second):
        return sum((x > y) + 0.5 * (x == y) for x in first for y in second)

    pooled, seen = [*a, *b], u(a, b)
    deals = []
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        rest = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        deals.append(u([pooled[i] for i in chosen], rest))
    low = sum(d <= seen for d in deals)
    high = sum(d >= seen for d in deals)
    return min(1.0, 2 * min(low, high) / len(deals))


@given(samples, samples)
def test_mann_whitney_counts_every_deal(a, b):
    p = mann_whitney(a, b)
    if 2 / math.comb(len(a) + len(b), len(a)) > 0.05:
        assert p is None
    else:
        assert p == pytest.approx(brute_force_p(a, b))


def test_mann_whitney_refuses_samples_that_could_never_reach_five_percent():
    assert mann_whitney([1, 2, 3], [4, 5, 6]) is None
    assert mann_whitney([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)


def test_the_normal_approximation_meets_the_exact_count():
    rng = random.Random(7)
    for shift in (0.0, 0.3, 0.8):
        a = [rng.gauss(0, 1) for _ in range(18)]
        b = [rng.gauss(shift, 1) for _ in range(22)]
        exact = ratio._exact_p(ratio._double_midranks([*a, *b]), 18)
        normal = ratio._normal_p(ratio._double_midranks([*a, *b]), 18)
        assert normal == pytest.approx(exact, abs=0.01)


def test_equal_samples_show_nothing():
    assert mann_whitney([1.0] * 30, [1.0] * 30) == 1.0


def test_errors_add_in_quadrature():
    found = of_medians(200, (194, 206), 100, (96, 104))
    assert found.value == 2
    low, high = found.ci95
    assert high / 2 - 1 == pytest.approx(math.hypot(0.03, 0.04), abs=0.002)
    assert 1 - low / 2 == pytest.approx(math.hypot(0.03, 0.04), abs=0.002)


def test_a_ratio_and_its_inverse_have_inverse_intervals():
    there = of_medians(210, (200, 225), 100, (97, 101))
    back = of_medians(100, (97, 101), 210, (200, 225))
    assert back.ci95 == pytest.approx((1 / there.ci95[1], 1 / there.ci95[0]))


def test_pairs_cancel_what_both_runs_share():
    drifting = [(1.1 * base, base) for base in (100, 80, 130, 95)]
    found = of_pairs(drifting)
    assert found.value == pytest.approx(1.1)
    assert found.ci95 == pytest.approx((1.1, 1.1))


def test_paired_interval_covers_the_truth_about_95_times_in_100():
    rng = random.Random(3)
    covered = 0
    for _ in range(400):
        found = of_pairs(
            [(1.2 * math.exp(rng.gauss(0, 0.05)), math.exp(rng.gauss(0, 0.05))) for _ in range(6)]
        )
        covered += found.ci95[0] <= 1.2 <= found.ci95[1]
    assert 368 <= covered <= 392


@pytest.mark.parametrize(("df", "quantile"), [(1, 12.706), (30, 2.042), (40, 2.0211), (120, 1.9799)])
def test_student_quantiles(df, quantile):
    assert student_t975(df) == pytest.approx(quantile, rel=0.002)


@pytest.mark.parametrize(
    ("value", "ci95", "p", "expected"),
    [
        (1.10, (1.05, 1.15), 0.001, "better"),
        (0.90, (0.85, 0.95), 0.001, "worse"),
        (1.10, (1.05, 1.15), 0.20, "not significant"),
        (1.10, (0.95, 1.25), 0.001, "not significant"),
        (1.005, (1.003, 1.007), 0.001, "same"),
        (1.003, (0.99, 1.015), 0.60, "same"),
        (1.003, (0.90, 1.10), 0.60, "not significant"),
        (1.50, None, None, "not significant"),
        (1.50, (1.4, 1.6), None, "better"),
    ],
)
def test_verdict_vocabulary(value, ci95, p, expected):
    assert verdict(Ratio(value=value, ci95=ci95, p_value=p)) == expected
