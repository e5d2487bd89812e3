"""Commands, environments, rehearsals and preflight: all decided without starting anything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local, preflight
from tgsbench.launch.command import Node, agent_argv, as_script, rank_environment
from tgsbench.launch.rehearse import rehearsal
from tgsbench.launch.watch import StopSignals
from tgsbench.models.spec import num_parameters
from tgsbench.presets.validate import mesh_problems
from tgsbench.results import results
from tgsbench.store import run_dir
from tgsbench.system.gpus import GpuInfo
from tgsbench.units import GIB

NO_GPU = preflight.LocalMachine([], 2, 16 << 30)
TWO_GPUS = preflight.LocalMachine([GpuInfo(0, "NVIDIA H100 80GB HBM3", 79.6)] * 2, 16, 64 << 30)


def test_the_command_is_an_argument_list_and_its_script_quotes():
    preset = presets.resolve("tiny_cpu").preset
    argv = agent_argv(Path("/runs/a b"), preset, python="py")
    assert argv == ["py", "-P", "-m", "tgsbench.training.agent", "/runs/a b", "--nproc-per-node", "2"]
    assert "'/runs/a b'" in as_script(argv)


def test_each_node_starts_its_share_of_the_ranks():
    preset = presets.resolve("llama2_70b_1M").preset
    node = Node(nnodes=8, node_rank=3, rendezvous="host0:29500", rendezvous_id="r")
    argv = agent_argv(Path("run"), preset, node, python="py")
    assert argv[argv.index("--nproc-per-node") + 1] == "8"
    assert argv[argv.index("--node-rank") + 1] == "3"


def test_cores_are_shared_out_and_the_users_settings_stay():
    preset = presets.resolve("tiny_cpu").preset
    assert rank_environment(preset, {}, 8, 2)["OMP_NUM_THREADS"] == "4"
    assert rank_environment(preset, {"OMP_NUM_THREADS": "3"}, 8, 2)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("name", [n for n in presets.list_presets() if n != "tiny_cpu"])
def test_every_preset_rehearses_with_its_shape(name):
    full = presets.resolve(name).preset
    small = rehearsal(full, 2)
    assert mesh_problems(small) == []
    assert small.rehearsal_of == name
    assert (small.parallel.sp > 1) == (full.parallel.sp > 1)
    assert small.training.checkpointing == full.training.checkpointing
    assert small.workload.document_mask == full.workload.document_mask
    assert small.accumulation == small.parallel.sp
    ratio = full.model.num_query_heads // full.model.num_kv_heads
    assert (small.model.num_query_heads // small.model.num_kv_heads) % ratio == 0
    if full.model.num_kv_heads < full.parallel.sp:
        assert small.model.num_kv_heads < small.parallel.sp
    mlp = full.model.intermediate_size / full.model.hidden_size
    assert small.model.intermediate_size / small.model.hidden_size == pytest.approx(mlp, rel=0.15)


def test_a_rehearsal_of_any_length_divides_by_its_sp():
    sets = ["hardware.num_gpus=3", "parallel.sp=3", "model.num_query_heads=6", "model.num_kv_heads=6"]
    odd = presets.resolve("tiny_cpu", [*sets, "workload.seq_len=9"]).preset
    assert (rehearsal(odd, 2).parallel.sp, rehearsal(odd, 2).workload.seq_len) == (2, 8)


def test_what_does_not_fit_says_what_is_needed_what_is_there_and_what_would_work():
    preset = presets.resolve("llama2_70b_1M").preset
    with pytest.raises(TgsError) as caught:
        preflight.check(preset, TWO_GPUS, 64)
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT
    assert "needs 64 GPUs A100-SXM4-80GB on 8 nodes, here are 2 (NVIDIA H100 80GB HBM3)" in caught.value.msg
    assert "--rehearse" in caught.value.hint


def test_states_that_no_gpu_here_can_hold_are_refused_before_anything_starts():
    preset = presets.resolve("llama2_70b_8k", ["hardware.num_gpus=2", "parallel.sp=1"]).preset
    with pytest.raises(TgsError) as caught:
        preflight.check(preset, TWO_GPUS, 2)
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT
    whole = num_parameters(preset.model) * 12 / 2 / GIB
    assert f"alone need {whole:,.2f} GiB on each GPU, the smallest here has 79.60 GiB" in caught.value.msg
    assert preflight.machine_problem(preset, TWO_GPUS, 2, emulated=True) == ""
    unnamed = preflight.LocalMachine([GpuInfo(0, "")] * 2, 16, 64 << 30)
    assert preflight.machine_problem(preset, unnamed, 2) == "", "unknown memory refuses nothing"


def test_a_cpu_preset_too_large_for_the_memory_is_refused():
    preset = presets.resolve("tiny_cpu", ["model=llama2_7b", "workload.seq_len=2k"]).preset
    assert "GiB of memory" in preflight.machine_problem(preset, NO_GPU, 2)
    assert preflight.machine_problem(presets.resolve("tiny_cpu").preset, NO_GPU, 2) == ""


def test_a_ctrl_c_before_the_supervisor_listens_cancels_the_run(tmp_path):
    preset = presets.resolve("tiny_cpu", ["measure.steps=1"]).preset
    run = run_dir.create(tmp_path, preset, None)
    local.prepare_run(run, preset)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        result = local.supervise(run, lambda events: None, stop=stop)
    assert (result.status, run.result().status) == ("cancelled", "cancelled")


def test_a_signal_that_nobody_took_is_raised_again():
    with pytest.raises(KeyboardInterrupt):
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        stop.send_on()


def test_a_supervisor_that_fails_leaves_its_reason_in_the_folder(tmp_path, monkeypatch):
    preset = presets.resolve("tiny_cpu", ["measure.steps=1"]).preset
    run = run_dir.create(tmp_path, preset, "r")
    local.prepare_run(run, preset)

    def broken(*_):
        raise OSError("[Errno 22] clock_gettime: Invalid argument")

    monkeypatch.setattr(local, "_start", broken)
    with pytest.raises(OSError, match="clock_gettime"):
        local.supervise(run, lambda events: None)
    failure = results.load_result(run).failure
    assert failure.reason == "the launcher failed: OSError: [Errno 22] clock_gettime: Invalid argument"


def test_room_is_kept_for_the_last_words_and_given_back(tmp_path):
    preset = presets.resolve("tiny_cpu").preset
    run = run_dir.create(tmp_path, preset, "r")
    run_dir.reserve(run)
    assert (run.path / ".reserve0").stat().st_size == 16 << 10
    run_dir.release(run)
    assert not (run.path / ".reserve0").exists()
    assert run_dir.why_unwritable(run.path) == ""
    assert "cannot be written any more" in run_dir.why_unwritable(run.path / "none")
    assert sorted(path.name for path in run.path.iterdir()) == ["events", "log", "preset.toml"]


def test_async_error_handling_of_nccl_is_left_to_torch():
    preset = presets.resolve("llama2_7b_8k").preset
    assert not any("ASYNC_ERROR" in name for name in rank_environment(preset, {}, 8, 2))
