"""The plan beside one rank's operators on fake tensors: the same FLOPs, the same traffic, the same peak."""

from __future__ import annotations

import pytest

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.dry_run import dry_run
from tgsbench.planner.plan import estimate, machine_of
from tgsbench.planner.stream import planned_stream
from tgsbench.report.plan import dry_run_totals

SMALL = ("model.num_layers=4", "model.vocab_size=32000")


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("llama2_70b_128k", ("training.checkpointing=full",)),
        ("llama3_8b_512k", ("training.checkpointing=selective", "hardware.num_gpus=16", "parallel.sp=16")),
        ("llama2_7b_8k", ("training.checkpointing=none", "training.micro_batch=2")),
        ("llama3_8b_4l_512k", ("workload.seq_len=64k",)),
        ("llama2_7b_8k", ("training.compute_dtype=float32", "workload.seq_len=2k")),
    ],
)
def test_flops_and_traffic_within_2_percent_and_peak_within_5(name, sets):
    preset = presets.resolve(name, [*SMALL, *sets]).preset
    run = dry_run(preset)
    planned = planned_stream(estimate(preset, machine_of(preset)).work)
    measured = dry_run_totals(run)
    peak = measured.pop("peak GiB")
    assert planned.pop("peak GiB") == pytest.approx(peak, rel=0.05)
    assert planned == pytest.approx(measured, rel=0.02)
    assert run.world_size == preset.world_size
    assert sum(group for group in run.at_peak.values()) == run.peak_bytes


@pytest.mark.parametrize("checkpointing", ["full", "none"])
def test_experts_on_several_ranks_are_traced_with_their_exchanges_and_shards(checkpointing):
    """Peak: kernels of experts have buffers of their own on a GPU, for which the plan has room."""
    sets = [
        "parallel.ep=8",
        "parallel.sp=2",
        f"training.checkpointing={checkpointing}",
        "workload.seq_len=4k",
    ]
    preset = presets.resolve("qwen3_30b_a3b_8k", [*SMALL, *sets]).preset
    run = dry_run(preset)
    planned = planned_stream(estimate(preset, machine_of(preset)).work)
    measured = dry_run_totals(run)
    assert planned.pop("peak GiB") == pytest.approx(measured.pop("peak GiB"), rel=0.1)
    assert planned == pytest.approx(measured, rel=0.02)
    assert run.collectives["expert_all_to_all"].calls == 4 * (4 if checkpointing == "none" else 6)


def test_a_ring_beside_experts_is_still_refused():
    with pytest.raises(TgsError, match="not ring of 2 x 2 Ulysses"):
        dry_run(
            presets.resolve("qwen3_30b_a3b_8k", ["parallel.ep=8", "parallel.sp=4", "parallel.ring=2"]).preset
        )


@pytest.mark.parametrize("sets", [["engine.name=deepspeed"], ["workload.document_mask=true"]])
def test_what_cannot_be_traced_is_refused_with_the_remedy(sets):
    with pytest.raises(TgsError, match="--trace") as caught:
        dry_run(presets.resolve("llama2_7b_8k", sets).preset)
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    assert "--set" in caught.value.hint


def test_a_hybrid_is_refused_by_what_ranks_lack():
    asked = presets.resolve("llama3_8b_8k", ["model=qwen3_next_80b_a3b", "hardware.num_gpus=64"]).preset
    with pytest.raises(TgsError, match="Qwen3-Next-80B-A3B is not: no engine here builds its linear"):
        dry_run(asked)
