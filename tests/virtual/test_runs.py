"""Presets on a virtual GPU: memory, calls and bytes against the plan; failures; every engine."""

from __future__ import annotations

import pytest

import tgsbench
from tgsbench import api, presets
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.results import rows
from tgsbench.units import GIB

pytestmark = pytest.mark.virtual

IN_CHUNKS = ["engine.sequence_chunks=4"]
SMALL = ["model.num_layers=2", "workload.corpus=lengths", "workload.concat=1"]


def _cuda_preset(name):
    preset = presets.resolve(name).preset
    return preset if preset.hardware.device == "cuda" else None


ON_CUDA = {name: preset for name in presets.list_presets() if (preset := _cuda_preset(name))}
SHIPPED = [(name, "fsdp2") for name in ON_CUDA] + [
    (name, "deepspeed") for name, preset in ON_CUDA.items() if preset.model.family == "llama"
]


def _run(tmp_path, preset, *sets, gpu="H100-SXM5-80GB", rank: int | str = 0):
    return tgsbench.run(preset, list(sets), virtual_gpu=gpu, rank=rank, root=tmp_path)


@pytest.mark.parametrize(("name", "engine"), SHIPPED)
def test_every_shipped_preset_is_as_planned(installed, tmp_path, name, engine):
    result = _run(tmp_path, name, f"engine.name={engine}", gpu=ON_CUDA[name].hardware.gpu)
    virtual = result.virtual
    assert result.status == "virtual", result.failure
    assert virtual.unknown_calls.keys() <= {"cudnnGetVersion", "cudnnGetProperty"}
    assert not result.integrity.problems
    for count in virtual.collectives:
        if count.calls_expected is not None:
            assert count.calls == count.calls_expected
        if count.gib_expected is not None:
            # DeepSpeed decides as it goes what it gathers again; what it sends by all-to-all is certain.
            decides = engine == "deepspeed" and count.name != "all_to_all"
            assert count.gib == pytest.approx(count.gib_expected, rel=0.01 if decides else 1e-12)
    peak = max(peak.allocated_gib or 0.0 for peak in virtual.peaks)
    assert peak == pytest.approx(virtual.mem_planned_gib, rel=0.03)


@pytest.mark.parametrize(("engine", "rank"), [("fsdp2", 5), ("deepspeed", 0)])
def test_one_rank_of_a_world_runs_under_both_engines(installed, tmp_path, engine, rank):
    result = _run(tmp_path, "llama2_7b_128k", *SMALL, f"engine.name={engine}", rank=rank)
    virtual = result.virtual
    assert result.status == "virtual", result.failure
    assert virtual.rank == rank
    assert virtual.host_s > 0 < virtual.launches_per_s
    preset = api.load_preset(
        "llama2_7b_128k", [*SMALL, f"engine.name={engine}"], virtual_gpu="H100-SXM5-80GB"
    )
    calls, num_bytes = expected_all_to_alls(preset)
    (exchange,) = [count for count in virtual.collectives if count.name == "all_to_all"]
    assert exchange.calls == calls
    assert exchange.gib * GIB == pytest.approx(num_bytes)
    assert result.tgs.median is None
    assert rows.from_result(result).tgs is None


@pytest.mark.parametrize(
    ("gpu", "recipe"),
    [("H100-SXM5-80GB", "rowwise"), ("H100-SXM5-80GB", "tensorwise"), ("B200-SXM-180GB", "mxfp8")],
)
def test_fp8_products_pass_torchs_own_checks_and_are_all_there(installed, tmp_path, gpu, recipe):
    sets = [*SMALL, f"hardware.gpu={gpu}"]
    plain = _run(tmp_path / "plain", "llama3_8b_128k", *sets, gpu=gpu)
    fp8 = [*sets, "training.linear=fp8", f"training.fp8_recipe={recipe}"]
    result = _run(tmp_path / "fp8", "llama3_8b_128k", *fp8, gpu=gpu)
    assert result.status == "virtual", result.failure
    assert result.linear == f"FP8 {recipe}"
    assert result.virtual.gemms == plain.virtual.gemms
    assert result.virtual.gemm_tflop == pytest.approx(plain.virtual.gemm_tflop)
    assert result.virtual.clock.by_kind["products"] < plain.virtual.clock.by_kind["products"]
    peak = max(peak.allocated_gib or 0.0 for peak in result.virtual.peaks)
    assert peak == pytest.approx(result.virtual.mem_planned_gib, rel=0.03)


LONG = ["training.checkpointing=full", "engine.tiled_mlp=true", "engine.activation_offload=true"]


@pytest.mark.parametrize(
    ("preset", "num_gpus", "seq_len", "sets"),
    [
        ("llama3_8b_8k", 8, 1 << 20, [*LONG, "engine.offload=all"]),
        ("llama3_8b_8k", 8, 1 << 18, ["engine.offload=optimizer"]),
        ("llama3_8b_8k", 1, 1 << 18, [*LONG, "engine.offload=all"]),
        ("llama2_70b_8k", 64, 1 << 22, [*LONG, "engine.offload=all"]),
    ],
)
def test_what_is_on_the_host_is_not_on_the_card(installed, tmp_path, preset, num_gpus, seq_len, sets):
    sets = [*sets, f"hardware.num_gpus={num_gpus}", f"parallel.sp={num_gpus}", f"workload.seq_len={seq_len}"]
    sets += ["model.num_layers=4", "training.accumulation=1", "workload.corpus=lengths", "workload.concat=1"]
    result = _run(tmp_path, preset, *sets)
    assert result.status == "virtual", result.failure
    peak = max(peak.allocated_gib or 0.0 for peak in result.virtual.peaks)
    assert peak == pytest.approx(result.virtual.mem_planned_gib, rel=0.03)


def test_one_rank_of_512_starts(installed, tmp_path):
    result = _run(tmp_path, "llama3_1b_8k", *SMALL, "hardware.num_gpus=512", rank=300)
    assert result.status == "virtual", result.failure


def test_compiled_blocks_are_compiled_for_the_card_and_launched(installed, tmp_path):
    result = _run(tmp_path, "llama3_1b_8k", *SMALL, "engine.compile=true")
    assert result.status == "virtual", result.failure
    names = [kernel.name for kernel in result.virtual.kernels]
    assert any(name.startswith("triton_") for name in names), names


WINDOWS = ("model.family=mistral", "model.window=4096", 'model.layer_pattern=["window"]')


@pytest.mark.parametrize(("ring", "mask", "windows"), [(4, False, ()), (8, True, ()), (4, True, WINDOWS)])
def test_a_ring_sends_what_it_must_beside_its_attention(installed, tmp_path, ring, mask, windows):
    sets = [*SMALL, f"parallel.ring={ring}", f"workload.document_mask={str(mask).lower()}", *windows]
    result = _run(tmp_path, "llama2_7b_128k", *sets)
    virtual = result.virtual
    assert result.status == "virtual", result.failure
    assert not result.integrity.problems
    assert result.integrity.ring_ok
    (messages,) = [count for count in virtual.collectives if count.name == "ring"]
    assert messages.calls == messages.calls_expected > 0
    assert messages.gib == pytest.approx(messages.gib_expected, rel=1e-12)
    assert messages.group == f"{ring} ranks"
    sent_s = virtual.clock.by_kind["send"]
    others_s = sum(virtual.clock.by_kind.get(kind, 0.0) for kind in ("all_gather", "reduce_scatter"))
    assert virtual.clock.exposed_s < sent_s + others_s, "messages go on beside attention"


@pytest.mark.parametrize(
    ("num_gpus", "groups", "chunks"), [(64, {8: 2}, 1), (32, {4: 1, 8: 1}, 1), (32, {4: 1, 8: 1}, 4)]
)
def test_keys_and_values_go_to_each_node_once(installed, tmp_path, num_gpus, groups, chunks):
    sets = [*SMALL, "parallel.ring=1", f"hardware.num_gpus={num_gpus}", f"parallel.sp={num_gpus}"]
    sets += ["training.accumulation=1", "workload.seq_len=256k"]  # two layers: no plan of memory holds
    sets += [f"engine.sequence_chunks={chunks}"]
    fast, slow = (
        _run(tmp_path / hops, "llama2_70b_1M", *sets, f"engine.kv_hops={hops}", gpu="A100-SXM4-80GB", rank=13)
        for hops in "21"
    )
    assert fast.status == "virtual" and fast.integrity.hops_ok, fast.failure
    assert not fast.integrity.problems
    exchanges = {c.group: c for c in fast.virtual.collectives if c.name == "all_to_all"}
    passes = 3 * 2 * chunks  # of two layers
    assert exchanges.keys() == {f"{ranks} ranks" for ranks in (num_gpus, *groups)}
    for count in exchanges.values():
        assert count.calls == count.calls_expected
        assert count.gib == pytest.approx(count.gib_expected, rel=1e-12)
    assert all(exchanges[f"{ranks} ranks"].calls == times * passes for ranks, times in groups.items())
    assert fast.virtual.clock.by_kind["all_to_all"] < 0.8 * slow.virtual.clock.by_kind["all_to_all"]
    peaks = [max(peak.allocated_gib or 0.0 for peak in result.virtual.peaks) for result in (fast, slow)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.03)


@pytest.mark.parametrize(
    "sets",
    [
        ["training.checkpointing=selective"],
        ["training.checkpointing=full", "engine.tiled_mlp=true", "engine.activation_offload=true"],
        ["training.checkpointing=full", "engine.activation_offload=true", "engine.offload=all"],
        ["engine.offload=optimizer"],
        ["parallel.ring=4"],
        ["training.checkpointing=full", *IN_CHUNKS, "engine.activation_offload=true", "engine.offload=all"],
        ["training.checkpointing=selective", *IN_CHUNKS],
        ["engine.zero_stage=1", "training.accumulation=2"],
        ["model.num_kv_heads=4", "hardware.gpus_per_node=2", "training.checkpointing=full"],
    ],
    ids=[
        "selective",
        "tiled and offloaded",
        "all on the host",
        "states on the host",
        "ring",
        "chunks",
        "chunks kept",
        "zero 1",
        "hops",
    ],
)
def test_torchs_sanitizer_finds_no_race_between_streams(installed, tmp_path, monkeypatch, sets):
    monkeypatch.setenv("TORCH_CUDA_SANITIZER", "1")
    result = _run(tmp_path, "llama2_7b_128k", *SMALL, *sets)
    assert result.status == "virtual", result.failure


@pytest.mark.parametrize(("chunks", "mode"), [(8, "full"), (8, "selective"), (2, "full"), (4, "selective")])
@pytest.mark.parametrize("linear", ["plain", "fp8"])
def test_chunks_of_the_sequence_hold_and_send_what_is_planned(installed, tmp_path, chunks, mode, linear):
    sets = [*SMALL, f"engine.sequence_chunks={chunks}", "engine.activation_offload=true"]
    sets += ["engine.tiled_mlp=true", f"training.checkpointing={mode}", f"training.linear={linear}"]
    result = _run(tmp_path, "llama3_8b_512k", *sets)
    virtual = result.virtual
    assert result.status == "virtual", result.failure
    assert result.integrity.a2a_ok
    peak = max(peak.allocated_gib or 0.0 for peak in virtual.peaks)
    assert peak == pytest.approx(virtual.mem_planned_gib, rel=0.03)


def test_gathers_and_states_leave_no_holes(installed, tmp_path):
    sets = ["model.num_layers=6", "workload.corpus=lengths", "workload.concat=1"]
    result = _run(tmp_path, "llama2_70b_8k", *sets, gpu="A100-SXM4-80GB")
    assert result.status == "virtual", result.failure
    (peak,) = (peak for peak in result.virtual.peaks if peak.phase == "measure")
    # 1.26 with gathers in memory of their own stream and states between activations.
    assert peak.reserved_gib < 1.15 * peak.allocated_gib


def test_all_ranks_of_a_small_world_run_together(installed, tmp_path):
    result = _run(tmp_path, "llama2_7b_32k", *SMALL, "hardware.num_gpus=2", "parallel.sp=2", rank="all")
    assert result.status == "virtual", result.failure
    assert result.integrity.a2a_ok
    assert len(result.mem.by_rank_gib) == 2


def test_a_preset_that_does_not_fit_is_a_stored_result(installed, tmp_path):
    result = _run(tmp_path, "llama3_8b_8k", "hardware.num_gpus=1", "training.checkpointing=none")
    assert result.status == "oom"
    assert "out of memory" in result.failure.reason.lower()
    assert result.failure.bytes_requested > 0
    assert result.failure.hint
    assert tgsbench.load_run(root=tmp_path).status == "oom"
    assert result.virtual.peaks
