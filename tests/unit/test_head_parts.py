"""Into how many parts a rank's heads are cut, and who counts the exchanges of each."""

from __future__ import annotations

import pytest

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch.rehearse import rehearsal
from tgsbench.launch.verify import one_rank, small_preset
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.planner.counts import layer_counts
from tgsbench.planner.workload import work_of
from tgsbench.systems.whole_layers import head_parts, most_attention_calls

SP8 = ["hardware.num_gpus=8", "parallel.sp=8"]


def parts(name: str, *sets: str) -> int:
    return head_parts(presets.resolve(name, list(sets)).preset)


def test_heads_are_cut_where_an_exchange_is_long_enough_to_hide() -> None:
    assert parts("llama2_7b_128k") == 2, "16k tokens a rank: 128 MiB of q"
    assert parts("llama2_7b_8k", *SP8) == 1, "1k tokens a rank: 8 MiB"
    assert parts("llama2_7b_8k", *SP8, "hardware.gpus_per_node=4") == 2, (
        "as many bytes between nodes take longer"
    )
    assert parts("llama2_70b_1M") == 1, "one query head a rank"
    assert parts("llama3_8b_128k", "model=qwen25_7b", "parallel.sp=4") == 2, "seven heads a rank: 4 and 3"
    assert parts("tiny_cpu") == 1


def test_where_memory_counts_parts_are_as_small_as_they_can_be() -> None:
    tiled = "engine.tiled_mlp=true"
    assert parts("llama3_8b_128k", *SP8, tiled) == 4, "four query heads of a rank share one KV head"
    assert parts("llama2_7b_128k", *SP8, tiled) == 4, "four heads of a rank, each with its own"
    assert parts("llama3_8b_128k", "hardware.num_gpus=4", "parallel.sp=4", tiled) == 2, "two KV heads"
    assert parts("llama3_8b_128k", *SP8, tiled, "engine.head_parts=2") == 2
    preset = presets.resolve("llama3_8b_128k", [*SP8, tiled]).preset
    assert head_parts(small_preset(preset)) > 1
    assert most_attention_calls(preset) == 4


def test_a_number_that_is_asked_for_is_taken() -> None:
    assert parts("llama2_7b_128k", "engine.head_parts=1") == 1
    assert parts("llama2_7b_8k", *SP8, "engine.head_parts=2") == 2


@pytest.mark.parametrize(
    "other", ["engine.compile=true", "parallel.sp=1", "model.num_query_heads=8", "parallel.ring=8"]
)
def test_parts_where_there_can_be_none_are_refused_with_the_nearest(other: str) -> None:
    sets = ["engine.head_parts=2", other, *(["model.num_kv_heads=8"] if "heads" in other else [])]
    with pytest.raises(TgsError, match=r"engine\.head_parts has no effect here; nearest: 0"):
        presets.resolve("llama2_7b_128k", sets)


@pytest.mark.parametrize(("asked", "exchanges"), [(1, 3), (2, 5)])
def test_plan_and_integrity_count_the_exchanges_of_each_part(asked: int, exchanges: int) -> None:
    preset = presets.resolve("llama2_7b_128k", [f"engine.head_parts={asked}"]).preset
    assert layer_counts(work_of(preset, "flash2")).exchanges_forward == exchanges
    calls, num_bytes = expected_all_to_alls(preset)
    assert calls == 3 * preset.accumulation * preset.model.num_layers * exchanges
    assert num_bytes == expected_all_to_alls(presets.resolve("llama2_7b_128k").preset)[1]


def test_what_stands_for_a_preset_has_as_many_parts() -> None:
    long, short = presets.resolve("llama2_7b_128k").preset, presets.resolve("llama2_7b_8k", SP8).preset
    assert head_parts(small_preset(long)) == 2
    assert head_parts(small_preset(short)) == 1
    assert head_parts(one_rank(small_preset(long))) == 1
    grouped = presets.resolve("llama3_8b_128k").preset
    assert head_parts(grouped) == head_parts(rehearsal(grouped, 2)) == 2
