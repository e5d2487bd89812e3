"""The zigzag order of a sequence, and what each ring step attends to, against a mask written out."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from tgsbench.systems.ring_steps import met_steps
from tgsbench.workload.zigzag import Layout

LAYOUTS = [
    Layout(96, 2, 2),
    Layout(96, 4, 2),
    Layout(96, 4, 4),
    Layout(96, 6, 2),
    Layout(96, 12, 4),
    Layout(96, 3, 3),
]
BORDERS = [
    [0, 96],
    [0, 1, 95, 96],
    [0, 5, 32, 51, 96],
    [0, 48, 96],
    [0, 10, 90, 96],
    [*range(0, 97, 12)],
    [*range(97)],
]


def allowed(borders):
    position = np.arange(borders[-1])
    document = np.searchsorted(borders, position, side="right")
    return (position[:, None] >= position) & (document[:, None] == document)


def held(layout, member):
    """Positions of a ring member, in its order."""
    ranks = range(member * layout.ulysses, (member + 1) * layout.ulysses)
    return np.concatenate([layout.cut(np.arange(layout.seq_len), rank) for rank in ranks])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_hold_every_position_once_and_as_many_each(layout):
    parts = [layout.cut(np.arange(layout.seq_len), rank) for rank in range(layout.sp)]
    assert {len(part) for part in parts} == {layout.seq_len // layout.sp}
    assert sorted(np.concatenate(parts)) == list(range(layout.seq_len))


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout(96, 3), Layout(96)])
def test_parts_of_all_ranks_are_joined_in_the_order_of_the_sequence(layout):
    row = np.arange(192).reshape(96, 2)
    parts = [layout.cut(row, rank) for rank in range(layout.sp)]
    assert (layout.join(parts) == row).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_member_holds_an_early_and_a_late_chunk(layout):
    for member in range(layout.ring):
        first, last = (np.arange(c * layout.chunk, (c + 1) * layout.chunk) for c in layout.chunks(member))
        assert (held(layout, member) == np.concatenate([first, last])).all()


@pytest.mark.parametrize("sp", [1, 2, 3, 4])
def test_without_a_ring_ranks_hold_the_sequence_in_order(sp):
    assert [Layout(96, sp).pieces(rank) for rank in range(sp)] == [
        [range(rank * 96 // sp, (rank + 1) * 96 // sp)] for rank in range(sp)
    ]


def random_borders(seed):
    chosen = random.Random(seed)
    return [0, *sorted(chosen.sample(range(1, 96), chosen.randrange(0, 12))), 96]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("borders", [*BORDERS, *map(random_borders, range(20))])
def test_the_steps_of_all_members_make_up_the_mask_and_nothing_twice(layout, borders):
    seen = np.zeros((96, 96), int)
    for member in range(layout.ring):
        queries = held(layout, member)
        for begin, end in itertools.pairwise(layout.own_borders(borders, member)):
            for row in range(begin, end):
                seen[queries[row], queries[begin : row + 1]] += 1
        for step in range(1, layout.ring):
            keys = held(layout, layout.source(member, step))
            if block := layout.block(borders, member, step):
                seen[np.ix_(queries[block.q_begin : block.q_end], keys[block.k_begin : block.k_end])] += 1
    assert (seen == allowed(borders)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_causal_work_is_the_same_for_all_members_at_every_step(layout):
    for step in range(1, layout.ring):
        blocks = [layout.block([0, 96], member, step) for member in range(layout.ring)]
        areas = {(b.q_end - b.q_begin) * (b.k_end - b.k_begin) for b in blocks}
        assert areas == {2 * layout.chunk**2}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [1, 7, 13, 95])
@pytest.mark.parametrize("borders", [*BORDERS[:6], *map(random_borders, range(2))])
def test_under_a_window_the_steps_make_up_the_mask_and_no_other_is_needed(layout, window, borders):
    seen = np.zeros((96, 96), int)
    for member in range(layout.ring):
        queries = held(layout, member)
        for begin, end in itertools.pairwise(layout.own_borders(borders, member, window)):
            for row in range(begin, end):
                seen[queries[row], queries[max(begin, row - window + 1) : row + 1]] += 1
        for step in (0, *met_steps(96, layout.ring, window)):
            keys = held(layout, layout.source(member, step))
            for block in layout.window_blocks(borders, member, step, window):
                num_keys = block.k_end - block.k_begin
                offset = num_keys - (block.q_end - block.q_begin)
                for query in range(block.q_end - block.q_begin):
                    first = 0 if block.left < 0 else max(0, query + offset - block.left)
                    assert first < num_keys, "a query that sees nothing has no log-sum-exp"
                    seen[queries[block.q_begin + query], keys[block.k_begin + first : block.k_end]] += 1
    position = np.arange(96)
    near = position[:, None] - position < window
    assert (seen == (allowed(borders) & near)).all()


@pytest.mark.parametrize(
    ("ring", "window", "steps"),
    [(8, 0, 7), (8, 1, 0), (8, 2, 2), (8, 8193, 2), (8, 8194, 4), (2, 100, 1), (16, 512, 2)],
)
def test_a_window_asks_few_members_for_their_keys(ring, window, steps):
    assert len(met_steps(2 * ring * 8192, ring, window)) == steps
