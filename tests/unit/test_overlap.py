"""What of a layer's all-to-alls nothing hides, on timelines worked out by hand."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.planner.overlap import Pieces, exposed_backward, exposed_forward
from tgsbench.planner.plan import estimate, forecast_preset, machine_of
from tgsbench.report.plan import plan_lines

PIECES = Pieces(
    query=1.0, key_value=1.0, output=1.0, attention=4.0, send_query=1.0, send_key_value=2.0, send_output=1.0,
    chunks=1,
)  # fmt: skip


@pytest.mark.parametrize(("chunks", "forward", "backward"), [(1, 3.0, 1.0), (2, 1.5, 0.0)])
def test_exposed_seconds_are_those_of_the_timeline(chunks, forward, backward):
    pieces = replace(PIECES, chunks=chunks)
    assert exposed_forward(pieces) == forward
    assert exposed_backward(pieces) == backward


def test_without_anything_to_hide_behind_all_of_it_is_exposed():
    bare = replace(PIECES, query=0.0, key_value=0.0, output=0.0, attention=0.0, chunks=2)
    assert exposed_forward(bare) == exposed_backward(bare) == bare.in_flight


def test_a_plan_counts_hidden_all_to_alls_apart_and_says_so():
    preset = presets.resolve("llama2_7b_128k").preset
    machine = machine_of(preset)
    hidden = estimate(preset, machine).time
    compiled = presets.resolve("llama2_7b_128k", ["engine.compile=true"]).preset
    in_full = estimate(compiled, machine).time
    assert hidden.items["all_to_all_node"] < 0.25 * in_full.items["all_to_all_node"]
    assert in_full.hidden["all_to_all"] == 0.0 < hidden.hidden["all_to_all"]
    assert "all_to_all hidden" in "\n".join(plan_lines(forecast_preset(preset)))
