"""The interval of the median."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tgsbench.metrics.stats import median, median_ci95


def test_below_six_samples_there_is_no_interval():
    assert median_ci95([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_ci95([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)


def test_known_ranks_of_the_binomial_table():
    samples = [float(i) for i in range(1, 21)]
    assert median_ci95(samples) == (6.0, 15.0)


@given(st.lists(st.floats(0, 1e9), min_size=6, max_size=60))
def test_interval_holds_the_median(samples):
    low, high = median_ci95(samples)
    assert low <= median(samples) <= high


def test_covers_the_true_median_as_often_as_it_says():
    rng = random.Random(1)
    covered = 0
    for _ in range(2000):
        low, high = median_ci95([rng.gauss(0, 1) for _ in range(12)])
        covered += low <= 0 <= high
    assert covered / 2000 >= 0.94


def test_the_interval_of_many_samples_joins_the_exact_one_smoothly():
    exact, approximate = (median_ci95(range(n)) for n in (500, 502))
    assert abs(exact[0] + 1 - approximate[0]) <= 1
    assert abs(exact[1] + 1 - approximate[1]) <= 1


def test_the_interval_of_ten_thousand_samples_is_symmetric():
    low, high = median_ci95(range(10_000))
    assert low + high == 9_999
    assert 190 < high - low < 202
