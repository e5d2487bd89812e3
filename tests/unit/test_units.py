"""Lengths parse and print as the field writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgsbench import units


@pytest.mark.parametrize(
    ("text", "tokens"), [("8k", 8192), ("1M", 1048576), ("128K", 131072), (512, 512), ("1.5k", 1536)]
)
def test_lengths(text, tokens):
    assert units.parse_length(text) == tokens


@pytest.mark.parametrize(
    "text", ["", "k", "-8k", "8kb", "1.3", 0, True, "1e3", "0.0001k", 10**400, "9" * 400, "9" * 30]
)
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match=r"length|positive"):
        units.parse_length(text)


@given(st.integers(1, 1 << 40))
def test_printed_lengths_read_back(tokens):
    assert units.parse_length(units.length(tokens)) == tokens


def test_rates_keep_the_figures_that_matter():
    assert [units.rate(v) for v in (3028.3, 216.8, 21.84, 0.512)] == ["3,028", "216.8", "21.84", "0.512"]
    assert units.duration(2.82e-5) == "28.2 µs"
    assert units.duration(0) == "0 ms"
    assert units.duration(0.0421) == "42.1 ms"
    assert units.duration(7500) == "2:05:00"


def test_a_published_figure_keeps_its_digits():
    assert [units.as_published(v) for v in (3028.3, 2685.0, 21.8)] == ["3028.3", "2685.0", "21.8"]


@given(st.floats(1e-9, 1e9))
def test_no_quantity_is_printed_as_a_power_of_ten(value):
    for text in (units.percent(value), units.duration(value), units.rate(value), units.three(value)):
        assert "e" not in text


def test_three_digits_of_a_large_and_of_a_small_figure():
    assert units.percent(13.63) == "1,363 %"
    assert [units.three(v) for v in (999.6, 0.00001234, 0.5, 45.678)] == ["1,000", "0.0000123", "0.5", "45.7"]
    assert units.three(-2500.0) == "-2,500"
