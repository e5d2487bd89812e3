"""Interval arithmetic and nesting against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tgsbench.traces import intervals as iv
from tgsbench.traces import nesting

LIMIT = 40
pairs = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)), max_size=12).map(
    lambda found: [(min(a, b), max(a, b)) for a, b in found]
)


def arrays(found):
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def instants(found):
    return {n for a, b in found for n in range(a, b)}


def as_set(a):
    assert (a[:, 1] > a[:, 0]).all()
    assert (a[1:, 0] >= a[:-1, 1]).all()
    return instants(a.tolist())


@given(pairs)
def test_union(found):
    merged = iv.union(*arrays(found))
    assert as_set(merged) == instants(found)
    assert iv.length(merged) == len(instants(found))
    assert (merged[1:, 0] > merged[:-1, 1]).all()  # touching ones are joined


@given(pairs, pairs)
def test_intersect_subtract_merge(a, b):
    left, right = iv.union(*arrays(a)), iv.union(*arrays(b))
    assert as_set(iv.intersect(left, right)) == instants(a) & instants(b)
    assert as_set(iv.subtract(left, right)) == instants(a) - instants(b)
    assert as_set(iv.merge([left, right])) == instants(a) | instants(b)


@given(pairs, pairs)
def test_covered(a, b):
    found = iv.covered(iv.union(*arrays(a)), *arrays(b))
    assert found.tolist() == [len(instants(a) & instants([pair])) for pair in b]


@given(pairs)
def test_complement(a):
    assert as_set(iv.complement(iv.union(*arrays(a)), 0, LIMIT)) == set(range(LIMIT)) - instants(a)


@st.composite
def nested(draw, start=0, end=LIMIT, depth=0):
    """Properly nested intervals, as operators on a thread are."""
    found, at = [], start
    while at < end and draw(st.booleans()):
        a = draw(st.integers(at, end))
        b = draw(st.integers(a, end))
        found.append((a, b))
        if depth < 3:
            found += draw(nested(a, b, depth + 1))
        at = b
    return found


@given(nested(), st.randoms())
def test_innermost_owner_of_nested_intervals(found, random):
    random.shuffle(found)
    start, end = arrays(found)
    forest = nesting.nest(start, end)
    cut = nesting.segments(forest)
    for instant in range(LIMIT):
        owner = int(cut.owner_at(np.array([instant + 0.5]))[0])
        open_ones = [pair for pair in found if pair[0] <= instant < pair[1]]
        if not open_ones:
            assert owner == -1
            continue
        shortest = min(b - a for a, b in open_ones)
        assert forest.end[owner] - forest.start[owner] == shortest


@given(pairs)
def test_crossing_intervals_never_count_an_instant_twice(found):
    forest = nesting.nest(*arrays(found))
    cut = nesting.segments(forest)
    assert (np.diff(cut.at) > 0).all()
    inside = cut.owner >= 0
    covered = np.diff(np.append(cut.at, LIMIT))[inside].sum() if len(cut.at) else 0
    assert covered <= len(instants(found))
