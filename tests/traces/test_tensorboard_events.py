"""Traces made legible for torch-tb-profiler: a CUDA trace made by hand, with known answers, and gloo's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.traces.made import nccl_step
from tests.traces.made_cuda import A2A_ELEMENTS, cuda_rank
from tgsbench.traces.tensorboard.events import UNSEEN, rewrite_for_plugin

pytest.importorskip("torch_tb_profiler")
GOLDEN = Path(__file__).parents[1] / "data" / "traces" / "golden_0000.pt.trace.json.gz"


def parsed(path):
    from tgsbench.traces.tensorboard import plugin

    return plugin.data.RunProfileData.parse("worker", None, str(path), str(path.parent))


def costs(found):
    from torch_tb_profiler.profiler.event_parser import ProfileRole

    return {role.name: found.avg_costs.costs[role] for role in ProfileRole}


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return cuda_rank(0).write(tmp_path_factory.mktemp("cuda") / "made_0000.pt.trace.json")


def test_time_on_the_device_is_computed_communicated_or_copied(cuda):
    found = costs(parsed(cuda))
    assert (found["Total"], found["Kernel"], found["Memcpy"], found["Communication"]) == (1000, 540, 20, 140)


def test_operators_get_the_time_of_their_kernels(cuda):
    found = {op.name: op for op in parsed(cuda).op_list_groupby_name}
    assert found["aten::mm"].self_device_duration == 2 * 340
    assert found["aten::_flash_attention_forward"].self_device_duration == 2 * 100
    assert found["nccl:all_to_all"].self_device_duration == 2 * 100
    assert "record_param_comms" not in found


def test_collectives_have_their_kernels_times_and_the_records_bytes(cuda):
    nodes = parsed(cuda).comm_node_list
    assert [(node.name, node.kernel_ranges, node.step_name) for node in nodes] == [
        ("nccl:all_to_all", [(380, 480)], "3"),
        ("nccl:all_gather", [(500, 560)], "3"),
        ("nccl:all_to_all", [(1380, 1480)], "4"),
        ("nccl:all_gather", [(1500, 1560)], "4"),
    ]
    assert (nodes[0].input_shape, nodes[0].input_type) == ([[A2A_ELEMENTS]], ["c10::Half"])


def test_steps_on_the_device_do_not_count_again(cuda):
    assert parsed(cuda).steps_names == ["3", "4"]


def test_kernels_of_hopper_count_as_tensor_core_kernels(cuda):
    # gemm 340 and flash 100 of gemm, flash, optimizer, all-to-all and all-gather: 700.
    assert parsed(cuda).tc_used_ratio == pytest.approx(440 / 700)


STOCK = """import json, sys
from torch_tb_profiler.profiler.data import RunProfileData
from torch_tb_profiler.profiler.event_parser import ProfileRole
found = RunProfileData.parse('worker', None, sys.argv[1], '/')
print(json.dumps([found.avg_costs.costs[ProfileRole.Communication], found.avg_costs.costs[ProfileRole.Kernel],
    sum(op.self_device_duration for op in found.op_list_groupby_name),
    [node.name for node in found.comm_node_list]]))"""


def test_the_plugin_alone_takes_communication_for_compute_and_knows_no_all_to_all(cuda):
    """Why it is extended: when this fails, a new release needs less of it."""
    environment = os.environ | {"TORCH_PROFILER_LOG_LEVEL": "ERROR"}
    argv = [sys.executable, "-c", STOCK, str(cuda)]
    done = subprocess.run(argv, check=True, capture_output=True, env=environment, timeout=120)
    communication_us, kernel_us, operators_us, collectives = json.loads(done.stdout)
    assert kernel_us == 540 + 140 and communication_us == 0
    assert operators_us == 0
    assert collectives == []


def test_communication_whose_launch_is_outside_the_trace_is_no_compute(tmp_path):
    found = costs(parsed(nccl_step().write(tmp_path / "made_0000.pt.trace.json")))
    # all-to-all 0–100, all-gather 150–450 (a kernel until 400, a copy until 420), 700–760, SendRecv 860–900.
    assert found["Communication"] == 100 + 30 + 60 + 40


def test_gloo_keeps_every_collective_it_ran():
    from tests.traces.test_golden import analyse

    found = parsed(GOLDEN)
    calls = [node.name for node in found.comm_node_list]
    profile = {one.name: one.calls * 2 for one in analyse([GOLDEN], "golden").collectives}
    assert calls.count("gloo:all_to_all") == profile["all_to_all"] == 24
    assert calls.count("gloo:all_gather") == profile["all_gather"]
    # gloo runs, and names, a reduce-scatter as an all-reduce.
    assert calls.count("gloo:all_reduce") == profile["reduce_scatter"] + profile["all_reduce"]


def test_types_that_the_plugin_takes_for_empty_are_told_by_their_size():
    mark = {
        "ph": "X", "cat": "user_annotation", "name": "gloo:send", "ts": 0, "dur": 1, "tid": 1,
        "args": {"Input type": ["double", "bool", "float"], "Input Dims": [[1], [2], [3]]},
    }  # fmt: skip
    assert rewrite_for_plugin([mark]) == {"gloo:send"}
    assert mark["args"]["Input type"] == ["long int", "unsigned char", "float"]


def test_events_without_category_duration_or_arguments_are_passed_over():
    bare = {"ph": "X", "name": "x", "ts": 0, "tid": "a"}
    assert rewrite_for_plugin([bare, {"ph": "M"}]) == set()
    assert (bare["cat"], bare["dur"]) == (UNSEEN, 0)


OF_TORCH_1_8 = {
    "cpu_op": "Operator", "user_annotation": "Operator", "cuda_runtime": "Runtime", "kernel": "Kernel",
    "gpu_memcpy": "Memcpy", "gpu_memset": "Memset",
}  # fmt: skip


def as_torch_1_8(events, launched_elsewhere=False):
    """The same trace with the categories and ids of 2021."""
    for event in events:
        event["cat"] = OF_TORCH_1_8.get(event.get("cat"), event.get("cat"))
        args = event.get("args", {})
        if "External id" in args:
            args["external id"] = args.pop("External id")
        if launched_elsewhere and event["cat"] == "Runtime":
            event["tid"] = 12345
    return events


@pytest.mark.parametrize("launched_elsewhere", [False, True])
def test_traces_of_torch_1_8_keep_their_device_time(tmp_path, launched_elsewhere):
    """Where the thread does not say which operator launched a kernel, the trace's own ids do."""
    made = cuda_rank(0)
    made.events = as_torch_1_8(made.events, launched_elsewhere)
    found = parsed(made.write(tmp_path / "old_0000.pt.trace.json"))
    by_name = {op.name: op for op in found.op_list_groupby_name}
    assert by_name["aten::mm"].self_device_duration == 2 * 340
    assert by_name["aten::_fused_adamw_"].self_device_duration == 2 * 100
    assert costs(found)["Kernel"] == 540


def test_arguments_that_are_null_do_no_harm():
    events = [{"ph": "X", "cat": "cpu_op", "name": "a", "tid": 1, "ts": 0, "dur": 5, "args": None}]
    rewrite_for_plugin(events)
    assert events[0]["args"]["external id"] == 1
