"""Where keys and values take two hops, what that leaves between nodes, and who counts it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch.verify import one_rank, small_preset
from tgsbench.metrics.integrity import check_exchanges, expected_all_to_alls, expected_kv_hops
from tgsbench.metrics.step_total import StepTotal
from tgsbench.planner.counts import layer_counts
from tgsbench.planner.network import exchanged_bytes
from tgsbench.planner.plan import estimate, forecast_preset, machine_of
from tgsbench.planner.workload import work_of
from tgsbench.schema.preset import Preset
from tgsbench.systems.kv_hops import kv_nodes, splits_evenly
from tgsbench.virtual_gpu.account import _demanded_exchanges

LONG = "llama2_70b_1M"
ULYSSES = "parallel.ring=1"


def resolved(name: str, *sets: str) -> Preset:
    return presets.resolve(name, list(sets)).preset


def test_two_hops_are_chosen_where_copies_would_cross_between_nodes() -> None:
    assert kv_nodes(resolved(LONG, ULYSSES)) == 8
    assert kv_nodes(resolved(LONG, ULYSSES, "engine.kv_hops=2")) == 8
    assert kv_nodes(resolved(LONG, ULYSSES, "engine.kv_hops=1")) == 1
    assert kv_nodes(resolved(LONG, ULYSSES, "engine.sequence_chunks=4")) == 8
    assert kv_nodes(resolved(LONG, ULYSSES, "engine.liger=true")) == 1, "no whole layers"
    assert kv_nodes(resolved(LONG, "parallel.ring=8")) == 1, "Ulysses stays inside the node"
    assert kv_nodes(resolved("llama2_70b_128k")) == 1, "one node"
    assert kv_nodes(resolved(LONG, ULYSSES, "model.num_kv_heads=64")) == 1, "no copies"


@pytest.mark.parametrize(
    ("kv_heads", "ulysses", "node", "does"),
    [
        (8, 64, 8, True), (16, 64, 8, True), (1, 64, 8, True), (4, 8, 4, True), (2, 8, 2, True),
        (64, 64, 8, False), (8, 8, 8, False), (8, 64, 64, False), (8, 8, 1, False),
        (8, 64, 7, False), (3, 6, 3, False), (6, 48, 12, False), (8, 24, 8, False),
    ],
)  # fmt: skip
def test_nodes_share_the_heads_out_evenly_or_there_is_one_hop(
    kv_heads: int, ulysses: int, node: int, does: bool
) -> None:
    assert splits_evenly(kv_heads, ulysses, node) is does


@pytest.mark.parametrize("other", ["parallel.sp=8", "engine.compile=true", "parallel.ring=8"])
@pytest.mark.parametrize("asked", [1, 2])
def test_hops_where_there_can_be_none_are_refused_with_the_nearest(other: str, asked: int) -> None:
    with pytest.raises(TgsError, match=r"engine\.kv_hops has no effect here; nearest: 0"):
        presets.resolve(LONG, [f"engine.kv_hops={asked}", other])


def test_a_node_takes_10_heads_from_others_where_it_took_24() -> None:
    hops, straight = (work_of(resolved(LONG, ULYSSES, f"engine.kv_hops={n}"), "flash2") for n in (2, 1))
    head = hops.local_tokens * hops.dims.head_dim * hops.compute_bytes

    def heads_from_others(kv_bytes: float, query_bytes: float) -> float:
        """What the eight ranks of a node get of one rank elsewhere, in heads."""
        return (kv_bytes + query_bytes) / 8 / head

    counts = layer_counts(hops)
    copied = layer_counts(straight).exchange_in - counts.exchange_out
    assert heads_from_others(counts.kv_between, counts.exchange_out) == 8 + 2
    assert heads_from_others(copied, counts.exchange_out) == 8 + 16


def test_plan_integrity_and_the_virtual_gpu_count_the_same_calls_and_bytes() -> None:
    preset = resolved(LONG, ULYSSES)
    hops, straight = (work_of(replace_hops(preset, n), "flash2") for n in (2, 1))
    calls, num_bytes = expected_kv_hops(preset)
    assert calls == 3 * 64 * 80
    assert num_bytes == calls * layer_counts(hops).kv_between
    assert expected_all_to_alls(preset) == expected_all_to_alls(replace_hops(preset, 1))
    assert 64 * exchanged_bytes(hops) == num_bytes + expected_all_to_alls(preset)[1]
    assert exchanged_bytes(straight) == expected_all_to_alls(preset)[1] / 64
    by_group = _demanded_exchanges(preset)
    assert by_group.keys() == {"64 ranks", "8 ranks"}
    assert by_group["64 ranks"] == (2 * calls, 2 * calls * layer_counts(hops).exchange_out)
    assert sum(count for count, _ in by_group.values()) == expected_all_to_alls(preset)[0] + calls
    assert sum(sent for _, sent in by_group.values()) == expected_all_to_alls(preset)[1] + num_bytes


def test_chunks_of_the_sequence_send_as_many_bytes_in_more_calls() -> None:
    whole, chunks = resolved(LONG, ULYSSES), resolved(LONG, ULYSSES, "engine.sequence_chunks=4")
    calls, num_bytes = expected_kv_hops(whole)
    assert expected_kv_hops(chunks) == (4 * calls, num_bytes)
    by_group = _demanded_exchanges(chunks)
    assert sum(count for count, _ in by_group.values()) == expected_all_to_alls(chunks)[0] + 4 * calls
    assert sum(sent for _, sent in by_group.values()) == expected_all_to_alls(chunks)[1] + num_bytes


def replace_hops(preset: Preset, hops: int) -> Preset:
    return replace(preset, engine=replace(preset.engine, kv_hops=hops))


def test_the_plan_is_faster_by_what_no_longer_crosses_and_says_so() -> None:
    fast, slow = resolved(LONG, ULYSSES), resolved(LONG, ULYSSES, "engine.kv_hops=1")
    times = [estimate(preset, machine_of(preset)).time for preset in (fast, slow)]
    network = [time.items["all_to_all_network"] for time in times if time]
    assert network[0] / network[1] == pytest.approx((2 * 64 + 16) / (2 * 64 + 128), rel=0.02)
    assert any("once to each of 8 nodes" in note for note in forecast_preset(fast).notes)
    assert not any("engine.kv_hops" in note for note in forecast_preset(slow).notes)


def test_a_verification_has_two_made_up_nodes() -> None:
    small = small_preset(resolved(LONG, ULYSSES))
    assert (kv_nodes(small), small.ulysses, small.hardware.gpus_per_node) == (2, 4, 2)
    assert kv_nodes(one_rank(small)) == kv_nodes(small_preset(resolved(LONG, "parallel.ring=8"))) == 1
    assert kv_nodes(small_preset(resolved(LONG, ULYSSES, "engine.kv_hops=1"))) == 1


def test_a_hop_that_is_missing_or_too_much_makes_a_run_invalid() -> None:
    preset = resolved(LONG, ULYSSES)
    a2a, hops = expected_all_to_alls(preset), expected_kv_hops(preset)

    def problems(of: Preset, calls: int, num_bytes: int) -> list[str]:
        step = StepTotal(
            step=0, phase="measure", a2a_calls=a2a[0], a2a_bytes=a2a[1], hop_calls=calls, hop_bytes=num_bytes
        )
        return check_exchanges(of, [step], 1).problems

    assert problems(preset, *hops) == []
    assert problems(preset, hops[0] - 1, hops[1])[0].startswith("keys and values: 15,359 all-to-alls")
    assert problems(preset, hops[0], hops[1] + 2)
    assert problems(replace_hops(preset, 1), *hops)[0].endswith(
        "0 of 0 follow from the shapes (1 step, the first is step 0)"
    )
