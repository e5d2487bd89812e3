"""How uneven tokens went to experts: over ranks, in the result, its summary and the notes of the screens."""

from __future__ import annotations

import pytest

from tgsbench.live.fold import LiveRun
from tgsbench.metrics.expert_tokens import expert_tokens
from tgsbench.metrics.observe import fold_events
from tgsbench.report.summary import experts_text
from tgsbench.schema.events import RoutedTokens


def events(*received: int) -> list[RoutedTokens]:
    return [RoutedTokens(rank=rank, busiest=1.5 + rank, received=num) for rank, num in enumerate(received)]


def test_the_busiest_expert_is_of_the_rank_where_it_is_busiest():
    found = expert_tokens(fold_events(events(0, 0)).routing, "learned")
    assert found is not None
    assert (found.busiest_expert, found.busiest_rank) == (2.5, None)
    assert experts_text(found) == "a layer's busiest was sent 2.50 times the mean (by the router's weights)"


def test_the_busiest_rank_is_over_the_mean_of_all_ranks():
    found = expert_tokens(fold_events(events(10, 30, 20, 20)).routing, "uniform")
    assert found is not None
    assert found.busiest_rank == pytest.approx(1.5)
    assert "the busiest rank 1.50 (uniform: tokens are dealt in turn)" in experts_text(found)


def test_nobody_has_experts():
    assert expert_tokens({}, "learned") is None
    assert experts_text(None) == ""


def test_a_live_run_keeps_what_each_rank_says():
    live = LiveRun(2)
    live.add_events(events(10, 30))
    assert [live.routing[rank].received for rank in (0, 1)] == [10, 30]
    assert not live.notes
