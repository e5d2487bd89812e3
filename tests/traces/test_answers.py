"""A hand-made NCCL step whose parts, exposure and bandwidths are known."""

from __future__ import annotations

import pytest

from tests.traces.made import AUTOGRAD, COMM_STREAM, Made, nccl_step
from tgsbench import presets
from tgsbench.traces.hotspots import analyse_rank


@pytest.fixture(scope="module")
def rank(tmp_path_factory):
    path = nccl_step().write(tmp_path_factory.mktemp("made") / "a.pt.trace.json")
    return analyse_rank(path).profile


def test_parts_of_the_step(rank):
    assert rank.steps == [3]
    assert rank.step_ms == 1.0
    found = {part: round(1000 * value) for part, value in rank.parts_ms.items() if value}
    assert found == {
        "attention_fwd": 100,
        "gemm": 200,
        "attention_bwd": 150,  # a kernel of no telling name, launched in the backward of the attention span
        "recompute": 50,  # a product with a sequence number of its own beneath a backward node
        "optimizer": 50,
        "memcpy": 20,  # the 50 µs beside the product belong to the product
        "all_to_all": 100,
        "all_gather": 30,
        "reduce_scatter": 60,
        "comm_unknown": 40,
        "idle": 200,
    }


def test_exposed_and_hidden(rank):
    assert rank.exposed_ms == pytest.approx(
        {"all_to_all": 0.1, "all_gather": 0.03, "reduce_scatter": 0.06, "comm_unknown": 0.04}
    )
    assert rank.hidden_ms["all_gather"] == pytest.approx(0.27)
    assert rank.comm_total_ms == pytest.approx(0.5)
    assert rank.compute_ms == pytest.approx(0.57)
    assert rank.overlap_ms == pytest.approx(0.27)
    assert rank.recompute_ms == {"gemm": pytest.approx(0.05)}


def test_collectives_by_group(rank):
    found = {(c.name, c.group): c for c in rank.collectives}
    a2a, gather = found["all_to_all", "sp"], found["all_gather", "fsdp"]
    assert (a2a.calls, a2a.bytes, a2a.resolved_by) == (1, 2_000_000, "kernel")
    assert a2a.gb_per_s == pytest.approx(20.0)  # 2 MB in 100 µs
    assert a2a.bus_gb_per_s == pytest.approx(10.0)  # half stays on the rank
    assert a2a.peak_gb_per_s == 450.0
    assert (gather.bytes, gather.resolved_by) == (4000, "launch")
    assert found["reduce_scatter", ""].resolved_by == "annotation"
    assert found["comm_unknown", ""].resolved_by == "name"
    assert rank.num_unresolved == 1


def test_flops_of_a_product(rank):
    gemm = next(op for op in rank.top if op.source == "kernel" and op.kind == "gemm")
    assert gemm.tflops == pytest.approx(2 * 64 * 32 * 16 / 200e-6 / 1e12)
    assert gemm.peak_tflops == presets.find_gpu("NVIDIA H100 80GB HBM3").bf16_tflops
    assert (gemm.calls, gemm.mean_us, gemm.p95_us) == (1, 200.0, 200.0)


def test_a_device_that_runs_behind_extends_the_window(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("nvjet", 90, 60, launch=50)
    made.kernel("nvjet", 900, 50, launch=800)  # launched after the step
    found = analyse_rank(made.write(tmp_path / "t.json")).profile
    assert found.step_ms == pytest.approx(0.15)
    assert found.parts_ms["gemm"] == pytest.approx(0.06)


def test_a_trace_without_steps_is_one_step(tmp_path):
    made = Made()
    made.kernel("nvjet", 100, 50)
    made.kernel("ncclDevKernel_AllReduce_Sum(x)", 200, 50, stream=COMM_STREAM)
    found = analyse_rank(made.write(tmp_path / "t.json")).profile
    assert (found.steps, found.step_ms) == ([], pytest.approx(0.15))
    assert found.shares["idle"] == pytest.approx(1 / 3)


def test_named_collectives_that_are_none_of_ours_are_counted(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("ncclDevKernel_Odd(x)", 10, 20, launch=1, **{"Collective name": "gather_permute"})
    found = analyse_rank(made.write(tmp_path / "t.json")).profile
    assert found.parts_ms["comm_other"] == pytest.approx(0.02)


def test_experts_have_their_own_shares_forward_and_backward(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 1000)
    for span, node, number, at in (
        ("tgsbench::router", "MmBackward0", 50, 10),
        ("tgsbench::experts", "GroupedMmBackward0", 60, 30),
        ("tgsbench::shared_expert", "MmBackward0", 70, 50),
    ):
        sequence = {"Sequence number": number}
        made.mark(span, at, 10)
        made.op("aten::mm", at + 1, 8, **sequence)
        made.kernel("ampere_bf16_gemm", 100 + at, 10, launch=at + 2)
        made.op(f"autograd::engine::evaluate_function: {node}", 300 + at, 10, AUTOGRAD, **sequence)
        made.kernel("ampere_bf16_gemm", 400 + at, 20 - number // 10, launch=302 + at, tid=AUTOGRAD)
    made.mark("tgsbench::experts.dispatch", 70, 10)
    made.kernel("ncclDevKernel_SendRecv", 600, 50, launch=72, stream=COMM_STREAM)
    rank = analyse_rank(made.write(tmp_path / "a.pt.trace.json")).profile
    found = {part: round(1000 * value) for part, value in rank.parts_ms.items() if value}
    assert found == {"router": 25, "experts": 24, "shared_expert": 23, "expert_all_to_all": 50, "idle": 878}


def test_linear_attention_has_a_share_of_its_own_forward_and_backward(tmp_path):
    """As fla and causal-conv1d run it: in autograd functions; some names of kernels say nothing."""
    made = Made()
    made.mark("ProfilerStep#1", 0, 1000)
    for function, number, at, inside in (
        ("CausalConv1dFn", 50, 10, "void causal_conv1d_fwd_kernel<x>(ConvParamsBase)"),
        ("ChunkGatedDeltaRuleFunction", 60, 30, "chunk_gated_delta_rule_fwd_kernel_h_blockdim64"),
        ("ChunkGatedDeltaRuleFunction", 70, 50, "l2norm_fwd_kernel1"),
    ):
        sequence = {"Sequence number": number}
        made.op(function, at, 10, **sequence)
        made.kernel(inside, 100 + at, 10, launch=at + 2)
        node = f"{function}Backward"
        made.op(f"autograd::engine::evaluate_function: {node}", 300 + at, 10, AUTOGRAD, **sequence)
        made.op(node, 301 + at, 8, AUTOGRAD, **sequence)
        made.kernel("some_kernel_of_theirs", 400 + at, 15, launch=302 + at, tid=AUTOGRAD)
    made.op("aten::mm", 80, 5)
    made.kernel("ampere_bf16_gemm", 200, 20, launch=81)
    made.kernel("flash_fwd_kernel<x>", 230, 20, launch=90)
    made.kernel("chunk_bwd_kernel_dqkwg", 500, 5, launch=91)
    rank = analyse_rank(made.write(tmp_path / "a.pt.trace.json")).profile
    found = {part: round(1000 * value) for part, value in rank.parts_ms.items() if value}
    assert found == {"linear_attention": 80, "gemm": 20, "attention_fwd": 20, "idle": 880}


def test_an_unknown_kernel_in_a_gated_delta_net_is_of_its_recurrence(tmp_path):
    """With stacks: what a module's own forward launches, not its projections."""
    made = Made()
    made.mark("ProfilerStep#1", 0, 1000)
    made.op("nn.Module: Qwen3NextGatedDeltaNet_0", 10, 100)
    made.op("nn.Module: Linear_3", 20, 20)
    made.kernel("ampere_bf16_gemm", 300, 20, launch=25)
    made.kernel("kernel_of_nobody", 330, 30, launch=60)
    rank = analyse_rank(made.write(tmp_path / "a.pt.trace.json")).profile
    found = {part: round(1000 * value) for part, value in rank.parts_ms.items() if value}
    assert found == {"gemm": 20, "linear_attention": 30, "idle": 950}
