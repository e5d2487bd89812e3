"""What the benchmarks on a virtual GPU conclude from runs."""

from __future__ import annotations

import pytest

from benchmarks import virtual_longest, virtual_presets
from tgsbench.metrics.integrity import expected_gathers
from tgsbench.schema.run import CallCount
from tgsbench.units import GIB
from tgsbench.virtual_gpu.account import planned_on_device


@pytest.mark.parametrize("longest", [1, 15, 16, 17, 100, 443, 2000])
@pytest.mark.parametrize("step", [0.0, 0.05])
def test_the_longest_length_that_fits_is_found_to_the_step(longest, step):
    tried = []

    def fits(tiles):
        tried.append(tiles)
        return 0.3 + 0.7 * tiles / (longest + 0.5) if tiles <= longest else None

    found = virtual_longest.search(fits, 16, step)
    assert longest - max(1, step * longest) <= found <= longest
    assert len(tried) == len(set(tried)) < 16


def test_nothing_fits_where_not_even_one_tile_does():
    assert virtual_longest.search(lambda tiles: None, 16, 0.05) == 0


def _held(**changes):
    row = virtual_presets.Held(preset="llama2_7b_8k", engine="fsdp2", gpu="A100-SXM4-80GB", status="virtual")
    memory = planned_on_device(virtual_presets._preset(row), "sdpa")
    row.allocated_gib = memory.tensor_bytes / GIB
    row.reserved_gib = (memory.tensor_bytes + memory.peak.items["allocator"]) / GIB
    for name, value in changes.items():
        setattr(row, name, value)
    return row


GATHERED = expected_gathers(virtual_presets._preset(_held()))[1] / GIB
"""Of 32 layers twice, the embedding and the head."""


def test_a_row_as_planned_misses_nothing():
    assert virtual_presets._misses(_held()) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"allocated_gib": 20.0}, "tensors"),
        ({"reserved_gib": 30.0}, "reserved"),
        ({"why": "0 tokens"}, "integrity"),
        ({"collectives": [CallCount(name="all_gather", calls=66, gib=1.0, group="8 ranks")]}, "its bytes"),
        ({"collectives": [CallCount(name="all_gather", calls=65, gib=GATHERED, group="8 ranks")]}, "for 66"),
    ],
)
def test_what_a_row_misses_is_named(changes, word):
    (miss,) = virtual_presets._misses(_held(**changes))
    assert word in miss
