"""Traces of other people's stacks: which step work belongs to, what is a collective, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.traces.made import COMM_STREAM, Made
from tgsbench.report.profile import profile_lines
from tgsbench.traces.analyse import analyse
from tgsbench.traces.hotspots import analyse_rank

DATA = Path(__file__).parents[1] / "data" / "traces_of_others"
RECORD = {
    "In msg nelems": 1_000_000, "Out msg nelems": 1_000_000, "Group size": 8, "dtype": "BFloat16",
    "Process Group Name": "3", "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]",
}  # fmt: skip


def parts_of(made: Made, folder: Path) -> dict[str, float]:
    found = analyse_rank(made.write(folder / "t.json")).profile
    return {part: round(1000 * ms, 3) for part, ms in found.parts_ms.items() if ms}


def stored(name: str):
    return analyse([DATA / f"{name}.json"], name)


# ---- which step work belongs to


def test_kernels_launched_before_the_trace_belong_to_no_step():
    found = stored("lag_at_start")
    assert found.step_ms == pytest.approx(20)
    assert found.parts_ms["gemm"] == pytest.approx(20)
    assert found.top[0].calls == 4
    assert any("6 kernels and copies (30 ms) were launched before the steps" in c for c in found.caveats)


def lagging(lag: float, steps: int = 3, num_before: int = 4, known: bool = False) -> Made:
    """Steps of 100 µs on the host that take 200 on the device, which starts `lag` behind."""
    made = Made(world_size=1)
    for number in range(num_before):
        at = lag - 50 * (num_before - number)
        made.kernel("nvjet", at, 50, launch=-1000 + number if known else None)
    for step in range(steps):
        made.mark(f"ProfilerStep#{step}", 100 * step, 100)
        for number in range(4):
            launch = 100 * step + 20 * number
            made.kernel("nvjet", max(launch, lag + 200 * step + 50 * number), 50, launch=launch)
    return made


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("lag", [50, 200, 2000])
def test_a_step_takes_as_long_however_far_the_device_is_behind(tmp_path, lag, known):
    made = lagging(lag, known=known)
    found = analyse_rank(made.write(tmp_path / "t.json")).profile
    assert found.step_ms == pytest.approx(0.2)
    assert found.parts_ms["gemm"] == pytest.approx(0.2)
    assert found.parts_ms["idle"] == pytest.approx(0.0)


def test_what_the_next_step_launched_is_no_work_of_this_one(tmp_path):
    made = lagging(50, steps=2, num_before=0)
    made.kernel("ncclDevKernel_AllGather_RING_LL(x)", 300, 100, launch=210, stream=COMM_STREAM)
    made.op("aten::mm", 205, 4)
    assert parts_of(made, tmp_path) == {"gemm": 200, "idle": 25}  # 450 µs in two steps, the first 50 idle


def test_a_launch_that_was_lost_in_the_middle_belongs_to_its_stream(tmp_path):
    made = Made(world_size=1)
    made.mark("ProfilerStep#1", 0, 1000)
    made.kernel("nvjet", 100, 50, launch=10)
    made.kernel("nvjet", 200, 50)
    made.kernel("nvjet", 300, 50, launch=20)
    assert parts_of(made, tmp_path) == {"gemm": 150, "idle": 850}


def test_a_trace_that_records_no_launches_is_read_by_the_clock(tmp_path):
    made = Made(world_size=1)
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("nvjet", 50, 100)
    assert parts_of(made, tmp_path) == {"gemm": 100, "idle": 50}


# ---- what is a collective


def test_symmetric_memory_kernels_are_communication():
    found = stored("nccl_symmetric")
    assert (found.parts_ms["all_gather"], found.parts_ms["all_reduce"]) == (20, 30)
    assert sum(found.exposed_ms.values()) == pytest.approx(50)
    assert found.parts_ms["gemm"] == pytest.approx(40)


def test_dispatch_and_combine_of_experts_are_a_kind_of_their_own():
    found = stored("deepep")
    assert found.parts_ms["expert_all_to_all"] == pytest.approx(40)
    assert found.exposed_ms["expert_all_to_all"] == pytest.approx(40)


def test_experts_have_the_group_that_the_trace_says_is_theirs(tmp_path):
    groups = [
        {"pg_name": "0", "pg_desc": "default_pg", "ranks": [0, 1, 2, 3]},
        {"pg_name": "5", "pg_desc": "EXPERT_MODEL_PARALLEL_GROUP", "ranks": [0, 2]},
    ]
    made = Made(distributedInfo={"backend": "nccl", "rank": 0, "world_size": 4, "pg_config": groups})
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("void deep_ep::intranode::dispatch<8>(x)", 10, 20, launch=1, stream=COMM_STREAM)
    group = {"Process Group Name": "5", "Process Group Description": "EXPERT_MODEL_PARALLEL_GROUP"}
    record = {**RECORD, "Collective name": "all_to_allv", **group, "Process Group Ranks": ""}
    made.kernel("ncclDevKernel_SendRecv(x)", 40, 20, launch=2, stream=COMM_STREAM, **record)
    (found,) = analyse_rank(made.write(tmp_path / "t.json")).profile.collectives
    assert (found.name, found.group, found.group_ranks) == (
        "expert_all_to_all", "EXPERT_MODEL_PARALLEL_GROUP", [0, 2],
    )  # fmt: skip
    assert found.calls == 2


def test_a_record_says_more_than_a_name(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    record = {**RECORD, "Process Group Description": "mesh_dp"}
    for number, (name, kind) in enumerate(
        {
            "elementwise_of_somebody": "_reduce_scatter_base",
            "void nvjet_like_gemm_name": "allreduce",
            "ncclDevKernel_Generic(x)": "all_to_all",
        }.items()
    ):
        extra = {**record, "Collective name": kind}
        made.kernel(name, 10 + 20 * number, 10, launch=number, stream=COMM_STREAM, **extra)
    made.kernel(
        "Memcpy DtoD", 80, 10, launch=50, cat="gpu_memcpy", **record, **{"Collective name": "all_gather"}
    )
    assert parts_of(made, tmp_path) == {
        "reduce_scatter": 10, "all_reduce": 10, "all_to_all": 10, "all_gather": 10, "idle": 60,
    }  # fmt: skip


def test_what_runs_on_a_communication_stream_under_no_known_name_is_unknown_communication(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("nvjet", 0, 10, launch=1)
    made.kernel("strange", 10, 10, launch=2)
    made.kernel("ncclDevKernel_AllReduce_Sum(x)", 20, 30, launch=3, stream=COMM_STREAM)
    made.kernel("strange", 60, 10, launch=4, stream=COMM_STREAM)
    made.kernel(
        "void at::native::vectorized_elementwise_kernel<4, x>(y)", 80, 10, launch=5, stream=COMM_STREAM
    )
    assert parts_of(made, tmp_path) == {
        "gemm": 10, "other": 10, "all_reduce": 30, "comm_unknown": 10, "norm_elementwise": 10, "idle": 30,
    }  # fmt: skip


def test_a_nameless_kernel_launched_by_a_collective_is_that_collective(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.op("symm_mem::two_shot_all_reduce_", 0, 10)
    made.kernel("kernel_0", 10, 20, launch=5)
    made.op("c10d::allgather_", 20, 10)
    made.kernel("void at::native::elementwise_kernel<direct_copy>(x)", 40, 5, launch=22)
    made.kernel("kernel_1", 50, 20, launch=25)
    assert parts_of(made, tmp_path) == {
        "all_reduce": 20, "norm_elementwise": 5, "all_gather": 20, "idle": 55,
    }  # fmt: skip


def test_one_and_two_shot_all_reduces_of_inference_engines():
    found = stored("custom_all_reduce")
    assert found.parts_ms["all_reduce"] == pytest.approx(20)
    assert found.exposed_ms["all_reduce"] == pytest.approx(20)


def test_copies_into_a_gathers_buffer_are_shard_traffic(tmp_path):
    found = stored("fsdp2_copy_in")
    assert found.parts_ms["shard_copy"] == pytest.approx(5)
    assert found.exposed_ms["shard_copy"] == pytest.approx(5)
    assert found.parts_ms["optimizer"] == 0
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.mark("FSDP::post_backward_reduce (layers.3)", 0, 30)
    made.op("fsdp::chunk_cat", 1, 5)
    made.kernel("void at::native::chunk_cat_cuda_kernel<float, __nv_bfloat16>(x)", 10, 10, launch=2)
    made.op("aten::div_", 8, 5)
    made.kernel("void at::native::vectorized_elementwise_kernel<4, Div>(x)", 20, 10, launch=9)
    made.op("aten::mm", 40, 5)
    made.kernel("nvjet", 25, 15, launch=41)
    assert parts_of(made, tmp_path) == {"shard_copy": 15, "gemm": 15, "idle": 70}


# ---- what is a product, attention, norm, loss, optimizer


def test_a_pointwise_kernel_is_not_what_it_was_fused_from():
    found = stored("inductor_pointwise")
    assert found.parts_ms["norm_elementwise"] == pytest.approx(20)
    assert found.parts_ms["attention_fwd"] == pytest.approx(10)


def test_a_function_of_the_user_says_nothing_about_what_it_runs(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.op("MyFlashAttnGemmOptimizerFn", 0, 20)
    made.op("aten::mul", 1, 5)
    made.kernel("void at::native::vectorized_elementwise_kernel<4, Mul>(x)", 10, 10, launch=2)
    made.kernel("nvjet", 20, 10, launch=8)
    made.kernel("mystery", 30, 10, launch=9)
    assert parts_of(made, tmp_path) == {"norm_elementwise": 10, "gemm": 10, "other": 10, "idle": 70}


def test_a_users_note_around_a_layer_does_not_make_its_products_attention(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.mark("self attention layer 3", 0, 50)
    made.kernel("nvjet", 10, 10, launch=2)
    made.kernel("void pytorch_flash::flash_fwd_kernel<x>", 20, 10, launch=3)
    assert parts_of(made, tmp_path) == {"gemm": 10, "attention_fwd": 10, "idle": 80}


def test_foreach_work_is_the_optimizers_only_where_the_optimizer_launched_it(tmp_path):
    kernel = "void at::native::multi_tensor_apply_kernel<TensorListMetadata<2>, BinaryOpScalarFunctor<x> >"
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.op("aten::_foreach_mul_", 0, 5)
    made.kernel(kernel, 10, 10, launch=1)
    made.mark("Optimizer.step#AdamW.step", 20, 20)
    made.op("aten::_foreach_mul_", 21, 5)
    made.kernel(kernel, 30, 10, launch=22)
    assert parts_of(made, tmp_path) == {"norm_elementwise": 10, "optimizer": 10, "idle": 80}


def test_a_module_says_what_an_unknown_kernel_is(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.span("python_function", "nn.Module: LlamaDecoderLayer_0", 0, 60)
    made.span("python_function", "nn.Module: LlamaRMSNorm_1", 1, 20)
    made.kernel("mystery", 10, 10, launch=2)
    made.span("python_function", "nn.Module: LlamaMLP_0", 30, 20)
    made.kernel("mystery", 30, 10, launch=35)
    assert parts_of(made, tmp_path) == {"norm_elementwise": 10, "other": 10, "idle": 80}


def test_what_is_unknown_is_said_with_its_share(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("mystery_of_a_vendor", 10, 25, launch=2)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert any("25 % of the step is unknown" in c and "mystery_of_a_vendor" in c for c in found.caveats)
    assert any(line.startswith("unknown ") for line in profile_lines(found))


# ---- what is missing


def test_a_gpus_job_without_its_kernels_has_no_rates():
    found = stored("launches_without_kernels_all")
    assert found.device == "cuda"
    assert all(op.tflops is None for op in found.top)
    assert any("180 launches, but no kernel was recorded" in c for c in found.caveats)
    assert "host time only" in profile_lines(found)[0]
    assert all("waits for the host" not in finding.text for finding in found.findings)


@pytest.mark.parametrize(
    "head",
    [
        {"deviceProperties": [{"name": "NVIDIA A100"}], "distributedInfo": None},
        {"deviceProperties": [], "distributedInfo": {"backend": "cpu:gloo,cuda:nccl", "rank": 0}},
        {"deviceProperties": [], "distributedInfo": {"backend": "hccl", "rank": 0}},
    ],
)
def test_a_look_at_the_host_alone_of_a_gpus_job_has_no_rates(tmp_path, head):
    made = Made(**head)
    made.mark("ProfilerStep#1", 0, 100)
    dims = {"Input Dims": [[64, 64], [64, 64]], "Input type": ["float", "float"]}
    made.op("aten::mm", 1, 1, **dims)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert all(op.tflops is None for op in found.top)
    assert any("no kernel was recorded" in c for c in found.caveats)


def test_a_cpus_job_keeps_its_rates(tmp_path):
    head = {"deviceProperties": [], "distributedInfo": {"backend": "gloo", "rank": 0, "world_size": 1}}
    made = Made(**head)
    made.mark("ProfilerStep#1", 0, 100)
    made.op("aten::mm", 1, 10, **{"Input Dims": [[64, 64], [64, 64]], "Input type": ["float", "float"]})
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert found.top[0].tflops is not None
    assert not any("no kernel" in c for c in found.caveats)


def test_some_launches_without_their_kernels_are_counted(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    for number in range(4):
        made.kernel("nvjet", 10 + 10 * number, 10, launch=number)
    made.span("cuda_runtime", "cudaLaunchKernel", 50, 1, correlation=999)
    made.span("cuda_runtime", "cudaEventRecord", 52, 1, correlation=1000)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert any("the kernels of 1 of 5 launches (20 %) are not in the trace" in c for c in found.caveats)


def test_several_devices_and_unknown_ones_are_said(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    made.kernel("nvjet", 10, 10, launch=1, device=0)
    made.kernel("nvjet", 10, 10, launch=2, device=1)
    made.span("npu_kernel", "MatMulV3", 30, 40, tid=3, device=0)
    made.span("python_function", "forward", 30, 40)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert any("activities of 2 devices (0, 1)" in c for c in found.caveats)
    assert any("1 events of the category 'npu_kernel' (40 µs)" in c for c in found.caveats)


def test_each_of_several_devices_has_its_own_figures(tmp_path):
    made = Made()
    made.mark("ProfilerStep#1", 0, 100)
    record = {"Collective name": "allreduce", "Process Group Name": "0", "Group size": 2}
    made.kernel("nvjet", 10, 40, launch=1, device=0)
    made.kernel("ncclDevKernel_AllReduce", 30, 40, launch=2, stream=20, device=0, **record)
    made.kernel("nvjet", 60, 20, launch=3, device=1)
    made.kernel("ncclDevKernel_AllReduce", 10, 40, launch=4, stream=20, device=1, **record)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    first, second = found.ranks[0].devices
    figures = [
        (d.device, d.busy_ms, d.compute_ms, d.comm_ms, d.exposed_ms, d.idle_ms) for d in (first, second)
    ]
    assert figures == [
        ("0", *map(pytest.approx, (0.06, 0.04, 0.04, 0.02, 0.04))),
        ("1", *map(pytest.approx, (0.06, 0.02, 0.04, 0.04, 0.04))),
    ]
    assert found.exposed_ms["all_reduce"] == pytest.approx(0.03)  # one's work hides nothing of the other's
    assert found.parts_ms["gemm"] == pytest.approx(0.03)
    assert sum(found.parts_ms.values()) == pytest.approx(found.step_ms) == pytest.approx(0.1)
    [collective] = found.collectives
    assert (collective.calls, collective.exposed_ms) == (1, pytest.approx(0.03))
    lines = profile_lines(found)
    assert [line.split() for line in lines[lines.index("devices") + 2 :][:2]] == [
        ["0", "0", "60", "µs", "40", "µs", "40", "µs", "20", "µs", "40", "µs"],
        ["0", "1", "60", "µs", "20", "µs", "40", "µs", "40", "µs", "40", "µs"],
    ]


def test_work_across_a_steps_border_is_said(tmp_path):
    made = Made(distributedInfo=None, deviceProperties=[])
    made.mark("ProfilerStep#1", 0, 100)
    made.mark("ProfilerStep#2", 100, 100)
    made.op("aten::mm", 90, 20)
    made.op("aten::mm", 150, 20)
    made.op("aten::mm", 195, 20)
    found = analyse([made.write(tmp_path / "t.json")], "x")
    assert any("2 operators cross a step's border" in c for c in found.caveats)


def test_arguments_may_be_null(tmp_path):
    made = lagging(0, num_before=0)
    wanted = parts_of(made, tmp_path)
    document = made.document()
    document["traceEvents"].insert(
        0, {"ph": "X", "cat": "cpu_op", "name": "a", "pid": 1, "tid": 1, "ts": 1, "dur": 1, "args": None}
    )
    for event in document["traceEvents"]:
        if event.get("cat") == "user_annotation":
            event["args"] = None
    path = tmp_path / "null.json"
    path.write_text(json.dumps(document))
    found = analyse_rank(path).profile
    assert {part: round(1000 * ms, 3) for part, ms in found.parts_ms.items() if ms} == wanted
    assert found.num_broken == 0
