"""Waits in real collectives of gloo ranks: the slow one is named, with what it costs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.dist.launch import torchrun
from tgsbench.metrics.slow_ranks import WINDOW, table_of
from tgsbench.schema.events import Waits

pytestmark = pytest.mark.dist
DELAY_S = 0.6


@pytest.mark.parametrize(
    ("world", "sp", "part"),
    [
        (2, 2, "data"),
        (2, 1, "forward"),
        (2, 2, "backward"),
        (2, 2, "optimizer"),
        (4, 2, "forward"),
        (4, 2, "optimizer"),
    ],
)
def test_a_slow_gloo_rank_is_named_with_its_delay(tmp_path, world, sp, part):
    rank = world - 1
    words = (str(tmp_path), str(sp), str(rank), part, str(DELAY_S), str(WINDOW + 1))
    torchrun(world, Path(__file__).with_name("waits_worker.py"), *words)
    lines = [line for path in tmp_path.glob("rank*.jsonl") for line in path.read_bytes().splitlines()]
    events = [msgspec.json.decode(line, type=Waits) for line in lines]
    found = table_of(events, world).slow
    assert found is not None
    assert found.rank == rank
    assert found.delay_s == pytest.approx(DELAY_S, rel=0.15)
    groups = {group for event in events for group in event.wait_s}
    assert groups >= ({"sp", "fsdp"} if world == 4 else {"world"} if sp == 1 else {"sp"})
