"""Faults injected into what is trained: each is caught by the check that should, in one process for all.

What a mesh and one rank have in common, parity cannot see: the fp64 oracle must.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.dist.evidence import break_builds, checks_of_one
from tgsbench import presets
from tgsbench.launch import verify
from tgsbench.launch.evidence_runs import EvidenceRun, WantedRun, gather
from tgsbench.launch.watch import StopSignals
from tgsbench.metrics import verification
from tgsbench.schema.preset import Preset

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1500)]  # thirty runs take 3 minutes of two quiet cores
NUM_STEPS = 3

FAULTS = {
    "attention_not_causal": {"causality", "oracle"},
    "attention_sees_one_ahead": {"causality", "oracle"},
    "attention_misses_its_own_token": {"oracle"},
    "attention_with_a_silent_window": {"oracle"},
    "attention_scale_without_its_root": {"oracle"},
    "query_groups_dealt_round_robin": {"oracle"},
    "kv_heads_swapped_within_a_rank": {"oracle", "parity"},
    "a_layer_skipped": {"oracle"},
    "mlps_skipped": {"oracle"},
    "gelu_in_place_of_silu": {"oracle"},
    "no_rope": {"oracle"},
    "rope_theta_of_another_model": {"oracle"},
    "positions_begin_anew_on_each_rank": {"oracle", "parity"},
    "norm_epsilon_of_another_model": {"oracle"},
    "norm_gradient_wrong": {"oracle"},
    "loss_gradient_wrong": {"oracle"},
    "a_chunk_of_the_loss_missing": {"oracle"},
    "recomputation_that_differs": {"oracle"},
    "embedding_frozen": {"oracle", "update"},
    "a_micro_step_dropped": {"oracle", "parity"},
    "micro_steps_weighted_alike": {"oracle", "parity"},
    "clipping_per_parameter": {"update"},
    "no_clipping": {"update"},
    "weight_decay_lost": {"update"},
    "beta2_of_another_optimizer": {"update"},
    "epsilon_of_another_optimizer": {"update"},
    "optimizer_stops_after_a_step": {"update"},
    "learning_rate_without_its_warm_up": {"update"},
    "tokens_counted_twice": {"tokens"},
    "targets_not_shifted": {"labels", "oracle"},
}
"""Fault -> the checks that must fail, on tiny_cpu: sp 2, accumulation 2, two KV heads a rank."""

MASKED = {"document_borders_one_late": {"oracle", "mask"}}
SHARED_OUT = {
    "both_data_parallel_groups_on_the_same_packs": {"tokens"},
    "the_same_packs_every_step": {"tokens"},
}
PADDED = {"padding_counted": {"tokens"}}
RING = {
    "a_block_of_the_ring_missing": {"oracle", "parity"},
    "a_block_of_the_ring_twice": {"oracle", "parity"},
    "blocks_of_the_ring_in_wrong_order": {"oracle", "parity"},
    "a_merge_without_the_maximum": {"oracle", "parity"},
    "a_shards_positions_off_by_one": {"oracle", "parity"},
    "chunks_of_the_ring_in_order": {"oracle", "parity", "tokens"},
    "gradients_of_the_ring_lost_on_their_last_hop": {"oracle", "parity"},
    "a_message_of_the_ring_sent_twice": {"ring"},
}
"""On a ring of four members, two KV heads."""
WINDOWED_RING = {
    "windows_of_the_ring_a_token_too_wide": {"parity"},
    "keys_of_the_ring_from_the_wrong_side": {"parity"},
    "a_message_of_the_ring_sent_twice": {"ring"},
}
"""The same, layers with a window of 48 tokens."""
CHUNKS = {
    "a_block_of_an_earlier_chunk_missing": {"oracle", "parity"},
    "a_block_of_an_earlier_chunk_twice": {"oracle", "parity"},
    "gradients_of_later_chunks_a_position_off": {"oracle", "parity"},
    "gradients_of_later_chunks_lost": {"oracle", "parity"},
    "weights_learn_from_the_first_chunk_alone": {"oracle", "parity"},
    "a_merge_without_the_maximum": {"oracle", "parity"},
    "a_shards_positions_off_by_one": {"oracle", "parity"},
    "chunks_of_the_ring_in_order": {"oracle", "parity", "tokens"},
}
"""In four chunks of the sequence, sp 2."""
MASKED_CHUNKS = {"blocks_of_earlier_chunks_in_wrong_order": {"oracle"}}
"""Without documents every earlier chunk is seen whole, and any order is right; in the first step, the one of
parity, no document reaches over two borders of chunks."""
WINDOWED_CHUNKS = {"windows_over_chunks_a_token_too_wide": {"oracle", "parity"}}

KV_HOPS = {
    "nodes_get_each_others_kv_head": {"oracle", "parity"},
    "copied_keys_in_the_order_of_places": {"oracle", "parity"},
    "a_copys_gradient_lost": {"oracle", "parity"},
    "keys_go_between_nodes_twice": {"kv_hops"},
}
"""On two nodes of two ranks each, two KV heads."""
COPIES = {
    "parameters_stay_gathered": {"shards"},
    "a_layer_left_to_the_root": {"shards"},
    "gradients_scattered_twice": {"shards"},
    "copies_not_summed": {"shards", "parity", "oracle"},
}
"""Two copies on two ranks each, under ZeRO-3."""

HEAD_NORMS = {
    "head_norms_skipped": {"oracle"},
    "a_head_norms_gradient_of_one_part_alone": {"oracle", "parity"},
    "head_norms_passed_over_in_the_backward": {"oracle"},
    "a_part_of_the_queries_projected_again_as_another": {"oracle", "parity"},
}
BIASES = {
    "a_bias_of_another_part": {"oracle", "parity"},
    "gradients_of_biases_lost": {"oracle"},
}
WINDOWS = {"a_part_of_the_heads_without_its_window": {"oracle", "parity"}}
"""Of layers with norms of heads, with biases and with a window, a rank's heads in two parts."""


def small(name: str, *sets: str) -> Preset:
    made = verify.small_preset(presets.resolve(name, list(sets)).preset)
    return replace(made, measure=replace(made.measure, steps=NUM_STEPS, warmup=verify.NUM_STEPS - NUM_STEPS))


def run_all(folder: Path, preset: Preset, faults: list[str]) -> dict[str, EvidenceRun]:
    """Every fault's run on the mesh, and beside it a sound build's runs and the oracle."""
    runs = {f"fault-{name}": WantedRun(preset, "evidence") for name in faults}
    sound = {
        "oracle": WantedRun(preset, "oracle"),
        "sound": WantedRun(preset, "evidence"),
        "alone": WantedRun(verify.one_rank(preset), "steps"),
    }
    with StopSignals() as stop:
        return gather(folder, [runs, sound], stop, lambda _: None)


def failed(preset: Preset, seen: dict[str, EvidenceRun], name: str) -> set[str]:
    run, truth, alone = seen[name], seen["oracle"], seen["alone"]
    assert not run.problem, run.problem
    differences = verify.gradient_differences(run.gradients, alone.gradients)
    checks = [
        *verify._oracle(preset, run, truth),
        verification.parity(preset, differences, alone.ranks, run.ranks),
        *checks_of_one(preset, run),
    ]
    assert all(check.worst for check in checks if check.status == "failed"), "the worst place is named"
    return {check.name for check in checks if check.status == "failed"}


IN_PARTS = ("engine.head_parts=2", "training.checkpointing=selective")
SETS = {
    "tiny": (("tiny_cpu",), FAULTS),
    "masked": (("tiny_cpu", "workload.document_mask=true"), MASKED),
    "dp": (("llama2_7b_8k",), SHARED_OUT),
    "ring": (("tiny_cpu", "hardware.num_gpus=4", "parallel.sp=4", "parallel.ring=4"), RING),
    "windowed_ring": (
        (
            "tiny_cpu", "hardware.num_gpus=4", "parallel.sp=4", "parallel.ring=4", "model.family=mistral",
            "model.window=48", 'model.layer_pattern=["window"]',
        ),
        WINDOWED_RING,
    ),
    "chunks": (("tiny_cpu", "engine.sequence_chunks=4"), CHUNKS),
    "masked_chunks": (
        ("tiny_cpu", "engine.sequence_chunks=4", "workload.document_mask=true"),
        MASKED_CHUNKS,
    ),
    "windowed_chunks": (
        (
            "tiny_cpu", "engine.sequence_chunks=4", "model.family=mistral", "model.window=48",
            'model.layer_pattern=["window"]',
        ),
        WINDOWED_CHUNKS,
    ),
    "kv_hops": (
        (
            "tiny_cpu", "hardware.num_gpus=4", "hardware.gpus_per_node=2", "parallel.sp=4",
            "model.num_kv_heads=2",
        ),
        KV_HOPS,
    ),
    "copies": (("tiny_cpu", "hardware.num_gpus=4", "parallel.shard=2"), COPIES),
    "head_norms": (("tiny_cpu", "model.family=qwen3", *IN_PARTS), HEAD_NORMS),
    "biases": (("tiny_cpu", "model.family=qwen2", *IN_PARTS), BIASES),
    "windows": (
        ("tiny_cpu", "model.family=mistral", "model.window=48", 'model.layer_pattern=["window"]', *IN_PARTS),
        WINDOWS,
    ),
    "chunked_kv_hops": (
        (
            "tiny_cpu", "hardware.num_gpus=4", "hardware.gpus_per_node=2", "parallel.sp=4",
            "model.num_kv_heads=2", "engine.sequence_chunks=4",
        ),
        KV_HOPS,
    ),
    "padded": (("tiny_cpu", "workload.packing=xtuner_stock", "workload.map_batch_size=4"), PADDED),
}


@pytest.mark.parametrize("which", SETS)
def test_each_fault_is_caught_by_name_and_a_sound_build_by_none(tmp_path, monkeypatch, which):
    words, faults = SETS[which]
    break_builds(monkeypatch)
    preset = small(*words)
    seen = run_all(tmp_path, preset, list(faults))
    assert failed(preset, seen, "sound") == set()
    missed = {
        name: got for name in faults if not faults[name] <= (got := failed(preset, seen, f"fault-{name}"))
    }
    assert not missed


def test_gradients_reduced_in_bf16_are_told(tmp_path, monkeypatch):
    break_builds(monkeypatch)
    preset = verify.in_bf16(small("tiny_cpu"))
    runs = {name: WantedRun(preset, "steps") for name in ("sound", "fault-reduced_in_the_compute_type")}
    with StopSignals() as stop:
        seen = gather(tmp_path, [runs], stop, lambda _: None)
    sound, broken = (verification.reduction(preset, seen[name].ranks) for name in runs)
    assert (sound.status, sound.measured) == ("passed", "float32")
    assert (broken.status, broken.measured) == ("failed", "bfloat16")
