"""Other systems on a virtual GPU, without its environment: what is refused, one rank alone, its account."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset
from tests.unit.test_virtual_gpu import H100, Log
from tgsbench import api
from tgsbench.cli.main import cli
from tgsbench.errors import ExitCode, TgsError
from tgsbench.external import observed, training_data
from tgsbench.external.process import PEER
from tgsbench.report import virtual_table
from tgsbench.report.virtual_table import VirtualRow
from tgsbench.schema.events import Step
from tgsbench.schema.run import CallCount, Manifest, PhasePeak, Virtual, VirtualGpu
from tgsbench.systems import environments, support
from tgsbench.systems.environments import EngineEnvironment, SharedTorch
from tgsbench.units import GIB
from tgsbench.virtual_gpu import installation
from tgsbench.virtual_gpu.account import account
from tgsbench.virtual_gpu.log import Kind, log_path

TORCH = SharedTorch(python="/v/bin/python", version="2.13.0", site_packages="/v/lib/python3.11/site-packages")


def _has(monkeypatch, python: str, **versions: str) -> None:
    """The environment of every system is this interpreter with these distributions."""
    found = EngineEnvironment(system="trl", python=python)
    monkeypatch.setattr(environments, "require", lambda system, on_virtual_gpu=False: found)
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(
        installation, "installed_versions", lambda python, names: {n: known.get(n, "") for n in names}
    )
    monkeypatch.setattr(installation, "site_of", lambda python, module: "/site")
    monkeypatch.setattr(installation.shutil, "which", lambda tool: tool)


def test_an_environment_with_a_cpu_build_is_refused_with_the_command_that_makes_another(monkeypatch):
    _has(monkeypatch, "/e/python", torch="2.13.0+cpu")
    preset = a_preset("llama2_7b_8k", "engine.name=trl", "training.checkpointing=full")
    with pytest.raises(TgsError, match=r"2\.13\.0\+cpu is a CPU build") as raised:
        api.check_machine(preset, virtual=VirtualGpu(gpu=H100, rank=0))
    assert raised.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert "tgsbench engines setup trl --virtual-gpu" in raised.value.hint


def test_an_environment_with_a_cuda_build_is_taken_without_our_own_packages(monkeypatch):
    _has(monkeypatch, "/e/python", torch="2.14.1", nvidia_cuda_runtime="13.0.96")
    assert installation.require_of("trl").site_packages == "/site"


def test_a_system_that_cannot_run_there_says_why_before_anything_is_made():
    done = CliRunner().invoke(cli, ["engines", "setup", "megatron_bridge", "--virtual-gpu"])
    assert isinstance(done.exception, TgsError)
    assert "Transformer Engine" in done.exception.msg
    assert "fsdp2" in done.exception.hint


def test_one_rank_may_be_of_a_world_of_many_machines():
    preset = a_preset("llama2_70b_8k", "engine.name=trl", "training.checkpointing=full")
    support.check(preset, on_virtual_gpu=True)
    with pytest.raises(TgsError, match="on one machine only, not on 4"):
        support.check(preset)


def test_an_environment_over_a_shared_torch_asks_for_that_very_release():
    (argv,) = environments.install_argv("torchtitan", torch=TORCH)
    assert argv[0].endswith("torchtitan-0.3.0-virtual-gpu/bin/python")
    assert argv[4:] == ["torch===2.13.0", "torchtitan==0.3.0", "triton"]
    (argv,) = environments.install_argv("xtuner", torch=TORCH)
    assert "torchvision" in argv
    assert "torch" not in argv


def test_an_environment_for_the_virtual_gpu_goes_first_there_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for special in (False, True):
        python = environments.made_python("trl", special)
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    assert environments.find_environment("trl").python == str(environments.made_python("trl"))
    there = environments.find_environment("trl", on_virtual_gpu=True).python
    assert there == str(environments.made_python("trl", for_virtual_gpu=True))


ALONE = """
import os, sys, torch, torch.distributed as dist
assert (os.environ["RANK"], os.environ["WORLD_SIZE"], sys.argv[1:]) == ("0", "8", ["--flag"])
dist.init_process_group("gloo", device_id=torch.device("cpu"))
group = dist.new_group(range(0, 8, 2), backend="gloo")
assert (dist.get_world_size(), dist.get_world_size(group)) == (8, 4)
dist.barrier(group)
told = [None] * 4
dist.all_gather_object(told, "mine", group=group)
assert told == ["mine"] * 4
total = torch.ones(3)
dist.all_reduce(total)
assert dist.get_default_group().bound_device_id is None if hasattr(dist, "get_default_group") else True
raise SystemExit(7)
"""


def test_a_lone_rank_waits_for_no_peer(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(ALONE)
    argv = [sys.executable, str(PEER / "lone_rank.py"), "8", str(program), "--flag"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 7, done.stderr[-2000:]


def _observed(tmp_path, *steps: tuple[int, float, float]) -> None:
    folder = tmp_path / observed.FOLDER
    folder.mkdir()
    zeros = dict.fromkeys(("tokens", "labels", "num_all_to_alls", "all_to_all_bytes", "mem_bytes"), 0)
    rows = [{"step": n, "begin_s": begin, "end_s": end, **zeros} for n, begin, end in steps]
    (folder / "observed.0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_step_of_another_system_is_what_its_observer_saw_between_two_optimizer_steps(tmp_path):
    # The warm-up begins at 1 ms; the optimizer steps in two parts, so of two lines the last one counts.
    _observed(tmp_path, (0, 0.001, 0.002), (0, 0.001, 0.0035), (1, 0.001, 0.0075))
    virtual = tmp_path / "virtual"
    virtual.mkdir()
    log = Log(log_path(virtual, 0))
    for name in ("warm-up", "warm-up", "warm-up", "at 4 ms", "at 5 ms", "at 6 ms", "at 7 ms", "later"):
        log.add(Kind.KERNEL, name, 1, 1)
    log.write()
    preset = a_preset("llama2_7b_8k", "engine.name=trl", "measure.warmup=1", "measure.steps=1")
    manifest = Manifest(
        run_id="x", preset=preset.name, engine="trl", created_unix=0.0, world_size=8, device="cuda",
        virtual=VirtualGpu(gpu=H100, rank=0),
    )  # fmt: skip
    found = account(virtual, manifest, preset, [])
    assert [kernel.name for kernel in found.kernels] == ["at 4 ms", "at 5 ms", "at 6 ms", "at 7 ms"]
    assert found.clock is None
    assert found.problems == []
    assert any("labels" in text for text in found.not_known)


def test_engines_stand_side_by_side_with_what_kept_others_out():
    peaks = [PhasePeak(phase="measure", allocated_gib=20.0, reserved_gib=25.0)]
    moved = [CallCount(name="all_gather", calls=3, gib=23.25), CallCount(name="all_reduce", calls=1, gib=1.0)]
    virtual = Virtual(gpu=H100, peaks=peaks, launches=7557, host_s=1.24, collectives=moved)
    rows = [
        VirtualRow(engine="trl", status="virtual", virtual=virtual),
        VirtualRow(engine="xtuner", reason="an environment with xtuner"),
    ]
    head, row, failed = virtual_table.lines(rows)
    assert head.split()[0] == "engine"
    for text in ("20.00 GiB", "25.00 GiB", "7,557", "1.24 s", "23.25 GiB", "1.00 GiB"):
        assert text in row
    assert failed == "xtuner: refused, an environment with xtuner"


def test_a_comparison_on_a_virtual_gpu_takes_no_option_of_timed_runs():
    words = ["compare", "llama2_7b_8k", "--engines", "fsdp2,trl", "--virtual-gpu", H100]
    done = CliRunner().invoke(cli, [*words, "--repeats", "3"])
    assert "--virtual-gpu has no effect with --repeats" in str(done.exception)
    alone = CliRunner().invoke(cli, ["compare", "llama2_7b_8k", "--virtual-gpu", H100])
    assert "--virtual-gpu is for --engines" in str(alone.exception)


def test_steps_on_a_virtual_gpu_are_told_by_the_observer_alone():
    row = {"step": 0, "begin_s": 1.0, "end_s": 2.0, "tokens": 8192, "labels": 0, "num_all_to_alls": 4}
    row |= {"all_to_all_bytes": 64, "mem_bytes": 2 * GIB, "reserved_bytes": 3 * GIB}
    (step,) = observed.alone(observed.steps([json.dumps(row) + "\n"], ended=True))
    assert (step.tokens, step.mem_by_rank_gib, step.reserved_by_rank_gib) == (8192, [2.0], [3.0])
    assert Step(step=0).mem_reserved == 0


def test_weights_that_nobody_computes_with_take_no_room(tmp_path):
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = {"model_type": "llama", "intermediate_size": 128, "vocab_size": 50_000, **shape}
    settings |= {"torch_dtype": "bfloat16", "_path": str(tmp_path / "w")}
    (tmp_path / "model.json").write_text(json.dumps(settings))
    argv = [sys.executable, str(PEER / "empty_weights.py"), str(tmp_path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    from safetensors import safe_open

    index = json.loads((tmp_path / "w" / "model.safetensors.index.json").read_text())
    file = tmp_path / "w" / index["weight_map"]["lm_head.weight"]
    with safe_open(file, "pt") as weights:
        assert weights.get_tensor("lm_head.weight").shape == (50_000, 64)
        assert "model.layers.1.mlp.down_proj.weight" in weights.keys()  # noqa: SIM118, it is no mapping
    assert file.stat().st_size > 12_000_000 > 100_000 > file.stat().st_blocks * 512


def test_empty_weights_are_kept_apart_from_random_ones(monkeypatch):
    preset = a_preset("llama2_7b_8k", "engine.name=swift", "training.checkpointing=full")
    monkeypatch.delenv("TGSBENCH_VGPU_LOG", raising=False)
    random = training_data.weights_dir(preset)
    monkeypatch.setenv("TGSBENCH_VGPU_LOG", "")
    empty = training_data.weights_dir(preset)
    assert (random.name, random.parent.name) == (empty.name, "random-weights")
    assert empty.parent.name == "empty-weights"


def test_torchtitan_finds_the_time_outs_that_its_torch_has_by_another_name():
    code = (
        "import runpy, sys, torch.distributed as dist\n"
        "runpy.run_path(sys.argv[1])['name_what_torch_has']()\n"
        "assert callable(dist.set_timeout)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(PEER / "titan_train.py")], check=True, timeout=300)
