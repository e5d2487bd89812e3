"""Parts of gradients that ranks of a CPU exchange and sum are what torch's own reduce-scatter gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.dist.launch import torchrun
from tgsbench.traces.analyse import analyse
from tgsbench.traces.files import trace_files

pytestmark = pytest.mark.dist

RANKS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    torchrun(RANKS, Path(__file__).with_name("gloo_sums_worker.py"), str(folder))
    return folder


def test_sums_and_means_are_those_of_torch(folder):
    for rank in range(RANKS):
        found = json.loads((folder / f"rank{rank}.json").read_text())
        assert max(found["off"].values()) < 1e-6, found
        whole = RANKS * 64 * 2 * 4
        assert found["counted"] == {"scatter": [3, 3 * whole]}, "no exchange of a sequence"
        assert found["types"] == ["float32"], "seen as a reduction"


def test_half_the_bytes_go_and_a_trace_calls_it_a_reduce_scatter(folder):
    events = json.loads((folder / "rank0.pt.trace.json").read_text())["traceEvents"]
    sent = sorted(event["name"] for event in events if event.get("name", "").startswith("gloo:"))
    assert sent == ["gloo:all_reduce", "gloo:all_to_all", "gloo:all_to_all"], "the largest goes as before"
    collectives = {(c.name, c.group): c for c in analyse(trace_files(folder), "sums").collectives}
    assert set(collectives) == {("reduce_scatter", "fsdp")}
    assert collectives["reduce_scatter", "fsdp"].calls == 3
