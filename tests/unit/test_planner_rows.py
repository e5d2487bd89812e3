"""Published rows that are not in the project: what is planned, what is not and why."""

from __future__ import annotations

import csv

import pytest

from benchmarks import planner_accuracy, planner_fit, row_notation
from benchmarks.planner_kernels import attention_speeds
from benchmarks.planner_rows import (
    CALIBRATION,
    LLAMA_FACTORY,
    OTHERS,
    XTUNER,
    assumptions,
    find_row_gpu,
    link_rows,
    read_rows,
    shape_dims,
)
from tgsbench.errors import TgsError
from tgsbench.planner.machine import find_constants
from tgsbench.systems.registry import find_system

SHAPE = (
    "source_repo,model,params_b,layers,hidden,intermediate,heads,kv_heads,vocab,gpu,gpus,seq_len,"
    "global_batch_tokens_or_microbatch,parallelism,activation_ckpt,tgs,note\n"
)
ROW = (
    "a/b,Llama3-8B,8.03,32,4096,14336,{heads},8,128256,{gpu},{gpus},{length},"
    "micro 1,{how},{mode},{tgs},{note}\n"
)
GIVEN = {"heads": "32", "gpu": "h100_80gb", "gpus": "16", "length": "8192"}
GIVEN |= {"how": "FSDP", "mode": "yes", "tgs": "5000", "note": ""}


def read(tmp_path, **changes):
    path = tmp_path / "rows.csv"
    path.write_text(SHAPE + ROW.format(**(GIVEN | changes)))
    return read_rows(path)


def test_a_row_of_any_model_is_planned(tmp_path):
    (row,), unplanned = read(tmp_path, how="FSDP ulysses 8", length="128k", note="FlashAttention-3")
    assert unplanned == []
    assert (row.work.sp, row.work.seq_len, row.work.world) == (8, 131_072, 16)
    assert (row.work.dims.kv_heads, row.work.dims.mlp_matrices, row.work.kernel) == (8, 3, "flash3")
    assert (row.gpu.name, row.tgs) == ("H100-SXM5-80GB", 5000.0)
    judged = planner_accuracy.judge(row, find_constants(row.gpu.name))
    assert judged.predicted > 0
    assert judged.error == pytest.approx(judged.predicted / 5000.0 - 1)
    assert judged.cause


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gpu": "MI300"}, "unknown GPU"),
        ({"how": "TP 8"}, "sharded data"),
        ({"tgs": ""}, "no TGS"),
        ({"length": "many"}, "length"),
        ({"heads": "0"}, "heads: '0' is no positive whole number"),
        ({"gpus": "many"}, "gpus: 'many' is no positive whole number"),
    ],
)
def test_a_row_that_cannot_be_planned_says_why(tmp_path, changes, why):
    rows, (unplanned,) = read(tmp_path, **changes)
    assert rows == []
    assert why in unplanned.reason


def test_out_of_memory_is_no_missing_figure(tmp_path):
    (row,), _ = read(tmp_path, tgs="OOM")
    assert row.tgs is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a100_80gb", "A100-SXM4-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("H100 SXM", "H100-SXM5-80GB"),
        ("h200", "H200-SXM-141GB"),
    ],
)
def test_gpus_by_the_words_of_a_table(text, name):
    assert find_row_gpu(text).name == name


@pytest.mark.parametrize("content", [b"\x00\xff", None])
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path, content):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TgsError, match=r"rows\.csv"):
        read_rows(path)


def _without(path, column, tmp_path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    out = tmp_path / "rows.csv"
    with out.open("w", newline="") as file:
        names = [name for name in rows[0] if name != column]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return out


@pytest.mark.parametrize(
    ("path", "column"), [(XTUNER, "num_gpus"), (XTUNER, "tgs"), (CALIBRATION, "gpu"), (CALIBRATION, "layers")]
)
def test_a_table_without_a_needed_column_is_refused_and_names_it(tmp_path, path, column):
    with pytest.raises(TgsError, match=rf"rows\.csv: no column {column};"):
        read_rows(_without(path, column, tmp_path))


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("")
    with pytest.raises(TgsError, match="its columns: none"):
        read_rows(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("path", "column", "assumed"),
    [(XTUNER, "sp", "sp 1"), (CALIBRATION, "activation_ckpt", "no checkpointing")],
)
def test_what_a_missing_column_makes_the_planner_assume_is_said(tmp_path, path, column, assumed):
    assert assumptions(path) == []
    (note,) = assumptions(_without(path, column, tmp_path))
    assert f"no column {column}: " in note
    assert assumed in note


def test_shipped_constants_are_those_of_the_fit():
    """What anyone's rows are judged with is what the calibration rows gave."""
    kernels, rows = attention_speeds(), planner_fit.all_rows()
    parameters = planner_fit.fit_parameters(rows, kernels)
    for row in {row.source: row for row in rows if row.work.system.measured}.values():
        shipped, fitted = find_system(row.work.system.name), planner_fit.stack(row, parameters)
        assert shipped.product_share == pytest.approx(fitted.product_share, rel=5e-3), row.source
        assert shipped.step_overhead_s == pytest.approx(fitted.step_overhead_s, abs=3e-3), row.source
        assert shipped.attention_share == pytest.approx(fitted.attention_share, rel=2e-3)
        assert shipped.traffic.logits == pytest.approx(fitted.traffic.logits, rel=1e-2)
        assert shipped.broadcast_hop_s == pytest.approx(fitted.broadcast_hop_s, rel=5e-2)
    for name, gpus in planner_fit.FAMILIES.items():
        found = find_constants(gpus[0])
        assert found.gemm_share == pytest.approx(getattr(parameters, f"gemm_share_{name}"), rel=2e-3)
    by_label = {row.label: row for row in read_rows(XTUNER)[0]}
    link = planner_fit.fit_link(find_constants("A100-SXM4-80GB"), list(by_label.values()))
    fitted = by_label[next(iter(link_rows().values()))].link
    assert fitted.gather_gb_per_s == pytest.approx(link.gather_gb_per_s, rel=5e-3)
    assert fitted.all_to_all_gb_per_s == pytest.approx(link.all_to_all_gb_per_s, rel=5e-3)


@pytest.mark.parametrize("path", [XTUNER, LLAMA_FACTORY])
def test_what_ran_fits_and_what_went_out_of_memory_does_not(path):
    rows, unplanned = read_rows(path)
    assert not unplanned
    wrong = [
        row.label
        for row in rows
        if not planner_accuracy.judge(row, find_constants(row.gpu.name)).verdict_right
    ]
    assert wrong == []


NOT_PLANNED = [
    ("tp=2", "tp 2"),
    ("FSDP8 TP8", "tp 8"),
    ("tp4 pp8 cp1 vp6", "tp 4"),
    ("FSDP 4, CP 2", "cp 2"),
    ("TP", "tp of unknown size"),
    ("ring attention + zero3", "a ring of unknown size"),
    ("FSDP2 cp4", "cp 4, and not that it is a ring"),
    ("cp4 (ring attention)", "what data parallelism shards is not said"),
    ("FSDP 2 cp4 ring", "fsdp 2 and cp 4 does not make 16 GPUs"),
    ("EP16xCP4, JAX", "'ep16xcp4' is not understood"),
    ("MaxText", "'maxtext' is not understood"),
    ("tp1 pp1 dp2 cp1", "dp 2 does not make 16 GPUs"),
    ("DDP", "what data parallelism shards is not said"),
    ("tp1 dp=16", "what data parallelism shards is not said"),
    ("fsdp-8", "fsdp -8 is not understood"),
]


@pytest.mark.parametrize(("text", "why"), NOT_PLANNED)
def test_parallelism_that_is_not_planned_is_refused_by_its_word(text, why):
    with pytest.raises(ValueError, match=why):
        row_notation.read_parallelism(text, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FSDP FULL_SHARD", {}),
        ("FSDP SHARD_GRAD_OP", {"regather": False}),
        ("tp1 zero1=8", {"zero_stage": 1, "shard_ranks": 8}),
        ("tp=1, zero1=-1", {"zero_stage": 1}),
        ("HSDP", {"shard_ranks": 8}),
        ("FSDP2", {}),
        ("FSDP + torch.compile + Float8", {"compiled": True, "fp8": True}),
        ("ulysses sp16 zero3 optim-offload param-offload", {"sp": 16, "offload": "all"}),
        ("tp1 pp1 cp1 vp", {}),
        ("FSDP2 cp8 (torch ring CP)", {"sp": 8, "ring": 8}),
        ("FSDP 4, CP 4 ring attention", {"sp": 4, "ring": 4}),
    ],
)
def test_parallelism_that_is_understood(text, expected):
    assert row_notation.read_parallelism(text, 16) == row_notation.Sharding(**expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8388608 tokens; micro 8 x accum 1", (8, 1)),
        ("micro_num 4, micro_bsz 2", (2, 4)),
        ("8M tokens; micro 2 x 4", (2, 4)),
        ("gbs 1024 mbs 2", (2, 1)),
        ("local bs 2", (2, 1)),
        ("bs 2/gpu", (2, 1)),
        ("512 sequences a step", (1, 1)),
        ("local bs 1, gbs 1024", (1, 2)),
    ],
)
def test_batches_that_are_understood(text, expected):
    assert row_notation.read_batch(text, 512, 1, 2048) == row_notation.Batch(*expected)


@pytest.mark.parametrize(
    "text", ["", "gbs 4096", "batch size 1024", "micro batch step", "4194304 total_weights"]
)
def test_batches_that_do_not_say_the_micro_batch_are_refused(text):
    with pytest.raises(ValueError, match="batch"):
        row_notation.read_batch(text, 512, 1, 2048)


@pytest.mark.parametrize("text", ["yes (50%)", "selective 1/2", "full (20 of 80 layers)", "every 2nd"])
def test_checkpointing_of_a_share_of_the_layers_is_refused(text):
    with pytest.raises(ValueError, match="activation checkpointing"):
        row_notation.read_checkpointing(text)


def test_a_parameter_count_that_no_dense_decoder_has_is_refused():
    raw = {"layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8", "intermediate": "14336"}
    dense = shape_dims(raw | {"vocab": "32000", "params_b": "7.24"})
    assert dense.mlp_matrices == 3
    with pytest.raises(ValueError, match="no dense decoder"):
        shape_dims(raw | {"vocab": "32000", "params_b": "46.7"})


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("LoRA", "adapters"),
        ("Qwen3-30B-A3B", "experts"),
        ("RL Full; FA3", "reinforcement"),
        ("QLoRA;", "adapters"),
    ],
)
def test_a_row_of_other_training_is_refused(words, why):
    with pytest.raises(ValueError, match=why):
        row_notation.refuse_other_training(words)


def test_no_row_of_other_stacks_is_read_without_its_words_being_known():
    """Tensor, pipeline and expert parallelism, adapters, context parallelism not said to be rings."""
    for path in OTHERS:
        rows, unplanned = read_rows(path)
        assert len(rows) + len(unplanned) == len(list(csv.DictReader(path.open(newline=""))))
        assert all(row.work.sp == row.work.ring for row in rows)
        assert all(row.source == "huggingface/trl" for row in rows if row.work.ring > 1)
        assert all(found.reason for found in unplanned)


@pytest.mark.parametrize(
    ("row", "gpu"), [("GB200", "GB200-NVL72"), ("h20", "H20-SXM-96GB"), ("A100", "A100-SXM4-80GB")]
)
def test_a_gpu_is_not_another_whose_name_it_holds(row, gpu):
    assert find_row_gpu(row).name == gpu


QWEN = {
    "model": "Qwen3-0.6B", "params_b": "0.6", "layers": "28", "hidden": "1024", "heads": "16",
    "kv_heads": "8", "intermediate": "3072", "vocab": "151936", "gpu": "H100", "gpus": "8",
    "seq_len": "16384", "tgs": "10000", "parallelism": "FSDP2", "activation_ckpt": "yes",
    "source_repo": "someone/stack",
}  # fmt: skip


def _read(tmp_path, **changes):
    raw = {"global_batch_tokens_or_microbatch": "micro 1", "note": ""} | QWEN | changes
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, raw)
        writer.writeheader()
        writer.writerow(raw)
    return read_rows(path)


def test_the_parameter_count_tells_heads_that_are_wider_together_than_the_model(tmp_path):
    (row,), _ = _read(tmp_path)
    assert row.work.dims.head_dim == 128
    (row,), _ = _read(tmp_path, params_b="0.51")
    assert row.work.dims.head_dim == 64


def test_the_time_of_one_micro_batch_says_its_size(tmp_path):
    batch = {"global_batch_tokens_or_microbatch": "micro batch step"}
    (row,), _ = _read(tmp_path, **batch, note="3.28 s per micro batch")
    assert (row.work.micro_batch, row.work.accumulation) == (2, 1)
    _, (refused,) = _read(tmp_path, **batch, note="2.46 s per micro batch")
    assert "1.50 sequences" in refused.reason
    _, (refused,) = _read(tmp_path, **batch)
    assert "the micro-batch is not said" in refused.reason


def test_a_mixture_of_experts_is_read_where_its_model_is_described(tmp_path):
    known = {"model": "Qwen3-30B-A3B", "params_b": "30.5", "layers": "48", "hidden": "2048", "note": "MoE"}
    (row,), _ = _read(tmp_path, **known)
    assert row.work.dims.routed
    _, (refused,) = _read(tmp_path, **known | {"layers": "47"})
    assert "whose experts the row does not describe" in refused.reason


def test_a_ring_runs_on_the_kernel_of_its_stack_unless_the_row_names_one(tmp_path):
    ring = {"parallelism": "FSDP2 cp8 (torch ring CP)", "source_repo": "huggingface/trl"}
    (row,), _ = _read(tmp_path, **ring, note="chunked NLL loss")
    assert (row.work.ring, row.work.kernel, row.work.system.name) == (8, "cudnn", "trl_ring")
    assert row.work.loss_chunk_tokens
    (row,), _ = _read(tmp_path, **ring, note="FA2")
    assert row.work.kernel == "flash2"


def test_published_rings_that_no_constant_was_fitted_to_seconds_of_come_out_within_a_tenth():
    rows = [row for path in OTHERS for row in read_rows(path)[0] if row.work.ring > 1]
    assert len(rows) == 4
    for row in rows:
        judged = planner_accuracy.judge(row, find_constants(row.gpu.name))
        assert abs(judged.error) < 0.1
        assert judged.low <= row.tgs <= judged.high
