"""Other systems as engines: what they cannot do, their configuration, their logs, how they end."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset
from tgsbench.cli.run import run
from tgsbench.errors import ExitCode, TgsError
from tgsbench.external import exit_report, observed
from tgsbench.external.adapter import StepReport, num_steps
from tgsbench.external.bridge import load_adapter, other_work, shared_out
from tgsbench.external.process import PEER, ExternalProcess, peer_environment
from tgsbench.external.training_data import weights_dir
from tgsbench.launch.command import agent_argv
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import build_result
from tgsbench.report.summary import summary_lines
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Bye, Claimed, Data, Error, Hello, Step
from tgsbench.schema.run import Manifest
from tgsbench.system import build_locks
from tgsbench.systems import environments, registry, support
from tgsbench.systems.registry import system_of
from tgsbench.training.errors import describe

LOGS = Path(__file__).parents[1] / "data" / "logs"
LLAMAFACTORY = (LOGS / "llamafactory_trainer_log_sample.jsonl").read_text()
XTUNER = (LOGS / "xtuner_log_sample.txt").read_text()


def a_tiny(engine: str, *sets: str):
    base = ["training.checkpointing=full", f"engine.name={engine}"]
    if engine == "llamafactory_v1":
        base[1:] = ["engine.name=llamafactory", "engine.use_v1=true"]
    if engine in ("llamafactory", "llamafactory_v1", "torchtitan"):
        base.append("parallel.sp=1")
    if engine == "xtuner":
        base.append("engine.cpu_shim=true")
    return a_preset("tiny_cpu", *base, *sets)


@pytest.mark.parametrize(
    "engine", ["llamafactory", "llamafactory_v1", "xtuner", "xtuner_v1", "trl", "swift", "torchtitan"]
)
def test_a_preset_that_the_system_can_do_has_no_gap(engine):
    assert support.gaps(a_tiny(engine)) == []


@pytest.mark.parametrize(
    ("engine", "assignment", "said"),
    [
        ("llamafactory", "parallel.sp=2", "no sequence parallelism"),
        ("llamafactory", "workload.corpus=lengths", "random tokens have none"),
        ("llamafactory", "training.checkpointing=selective", "no selective"),
        ("llamafactory_v1", "parallel.sp=2", "flash-attn alone"),
        ("llamafactory_v1", "engine.zero_stage=2", "by FSDP2"),
        ("llamafactory_v1", "engine.offload=optimizer", "together, or neither"),
        ("llamafactory_v1", "engine.kernel=flash2", "no attention kernel flash2"),
        ("llamafactory_v1", "engine.liger=true", "no Liger"),
        ("llamafactory_v1", "workload.packing=xtuner_stock", "shorter than the sequence"),
        ("xtuner", "engine.cpu_shim=false", "shim"),
        ("xtuner", "engine.liger=true", "Liger"),
        ("xtuner", "training.compute_dtype=bfloat16", "bf16"),
        ("swift", "workload.document_mask=true", "without document borders"),
        ("swift", "engine.kernel=flash3", "no attention kernel flash3"),
        ("torchtitan", "parallel.sp=2", "ring attention needs CUDA"),
        ("torchtitan", "workload.document_mask=true", "flex attention has no backward"),
        ("torchtitan", "engine.liger=true", "no Liger"),
        ("xtuner_v1", "engine.kernel=flash2", "no attention kernel flash2"),
        ("xtuner_v1", "training.micro_batch=2", "one by one"),
    ],
)
def test_what_a_system_cannot_do_is_unsupported_with_a_remedy(engine, assignment, said):
    with pytest.raises(TgsError, match=said) as raised:
        support.check(a_tiny(engine, assignment))
    assert raised.value.exit_code == ExitCode.UNSUPPORTED
    assert raised.value.hint


def test_unsupported_is_said_before_anything_is_launched(tmp_path):
    done = CliRunner().invoke(
        run, ["--preset", "tiny_cpu", "--engine", "llamafactory", "--headless", "--output", str(tmp_path)]
    )
    assert isinstance(done.exception, TgsError)
    assert done.exception.exit_code == ExitCode.UNSUPPORTED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "value"), [("--emulate-rank", None), ("--nodes", "a,b")])
def test_options_of_our_own_ranks_are_refused(option, value):
    words = ["--preset", "tiny_cpu", "--engine", "llamafactory", "--set", "parallel.sp=1", option]
    done = CliRunner().invoke(run, words + ([value] if value else []))
    assert isinstance(done.exception, TgsError)
    assert done.exception.exit_code == ExitCode.UNSUPPORTED


def test_llamafactory_gets_the_presets_values():
    preset = a_tiny("llamafactory", "training.accumulation=3", "training.lr=1e-4")
    settings = json.loads(load_adapter(a_tiny("llamafactory")).files(preset, Path("/x"))["train.yaml"])
    assert settings["cutoff_len"] == preset.workload.seq_len
    assert settings["gradient_accumulation_steps"] == 3
    assert settings["learning_rate"] == 1e-4
    assert settings["max_steps"] == num_steps(preset)
    assert settings["preprocessing_batch_size"] == 25_000
    assert settings["trust_remote_code"] is False
    assert settings["bf16"] is False


def test_xtuners_configuration_is_python_whose_values_are_literals():
    preset = a_tiny("xtuner", "training.accumulation=2")
    folder = Path("/x/'; import os  # ")
    source = load_adapter(a_tiny("xtuner")).files(preset, folder)["config.py"]
    tree = ast.parse(source)
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple)
    }
    assert values["data_path"] == str(folder / "packs")
    assert values["sequence_parallel_size"] == 2
    assert values["accumulative_counts"] == 2
    assert values["max_iters"] == 2 * num_steps(preset)


def test_llamafactory_steps_are_differences_of_its_cumulative_figures():
    preset = a_tiny("llamafactory")
    steps = load_adapter(a_tiny("llamafactory")).steps(LLAMAFACTORY, preset)
    assert [step.tokens for step in steps[:3]] == [2048, 2048, 2048]
    assert steps[1].step_s == pytest.approx(4096 / 17855.6 - 2048 / 17197.79)
    assert sum(s.step_s for s in steps[:3]) == pytest.approx(6144 / 18191.82)


def test_llamafactorys_summary_row_is_no_step():
    rows = [json.loads(line) for line in LLAMAFACTORY.splitlines()]
    summary = {k: v for k, v in rows[-1].items() if k != "loss"}
    with_summary = LLAMAFACTORY.rstrip() + "\n" + json.dumps(summary) + "\n"
    preset = a_tiny("llamafactory")
    adapter = load_adapter(a_tiny("llamafactory"))
    assert adapter.steps(with_summary, preset) == adapter.steps(LLAMAFACTORY, preset)


def test_llamafactory_v1_gets_the_presets_values_and_its_log_has_losses_alone():
    preset = a_tiny("llamafactory_v1", "training.accumulation=3", "training.lr=1e-4")
    adapter = load_adapter(preset)
    files = adapter.files(preset, Path("/x"))
    settings = json.loads(files["train.yaml"])
    assert settings["global_batch_size"] == 2 * 3 and settings["max_steps"] == num_steps(preset)
    assert settings["dist_config"] == {
        "name": "fsdp2", "cp_mode": "ulysses", "cp_size": 1, "offload_params": False,
    }  # fmt: skip
    assert (settings["optim_config"]["lr"], settings["flash_attn"]) == (1e-4, "sdpa")
    rows = [json.loads(row) for row in files["packs.jsonl"].splitlines()]
    assert rows == [{"messages": [i]} for i in range(2 * 3 * num_steps(preset))]
    log = "no step\n" + (LOGS / "llamafactory_v1_2ranks.jsonl").read_text()
    losses = [7.65269660949707, 7.6089677810668945, 7.6600446701049805, 7.6364426612854]
    assert [(s.loss, s.tokens, s.step_s) for s in adapter.steps(log, preset)] == [(n, 0, 0) for n in losses]
    assert (adapter.claims(log, preset), adapter.own_tgs(log, preset)) == ({}, None)
    assert observed.is_wanted(preset, {})
    assert registry.engine_of(preset.engine).unequal != registry.find_engine("llamafactory").unequal


def test_llamafactory_v1_shares_a_sequence_on_gpus_through_flash_attn():
    asked = ["engine.name=llamafactory", "engine.use_v1=true", "training.checkpointing=full"]
    preset = a_preset("llama3_8b_32k", *asked, "parallel.sp=4")
    assert support.gaps(preset) == []
    adapter = load_adapter(preset)
    settings = json.loads(adapter.files(preset, Path("/x"))["train.yaml"])
    assert (settings["flash_attn"], settings["dist_config"]["cp_size"]) == ("flash_attention_2", 4)
    assert (adapter.kernel(preset), settings["bf16"]) == ("flash2", True)
    (gap,) = support.gaps(a_preset("llama3_8b_32k", *asked, "parallel.sp=4", "engine.kernel=sdpa"))
    assert "flash-attn alone" in gap.what
    assert system_of(preset.engine).sequence_parallel


def test_llamafactory_v1s_template_gives_a_pack_token_for_token_with_its_documents_apart(tmp_path):
    pytest.importorskip("transformers")
    np.save(tmp_path / "tokens.npy", np.arange(12).reshape(2, 6))
    np.save(tmp_path / "labels.npy", np.array([[-100, 1, 2, 3, 4, 5], [-100, 7, 8, -100, 10, 11]]))
    (tmp_path / "starts.json").write_text("[[0], [0, 3]]")
    script = runpy.run_path(str(PEER / "llamafactory_v1_train.py"))
    rendered = script["pack"](tmp_path, 1)
    assert rendered["input_ids"].tolist() == [6, 7, 8, 9, 10, 11]
    assert rendered["labels"].tolist() == [-100, 7, 8, -100, 10, 11]
    assert rendered["loss_weights"].tolist() == [0, 1, 1, 0, 1, 1]
    assert rendered["position_ids"].tolist() == [0, 1, 2, 0, 1, 2]
    assert "attention_mask" not in rendered
    (tmp_path / "starts.json").write_text("[]")
    script["arrays"].cache_clear()
    assert script["pack"](tmp_path, 1)["position_ids"].tolist() == list(range(6))


def test_xtuner_steps_are_whole_accumulation_windows():
    preset = a_tiny("xtuner", "training.accumulation=2")
    steps = load_adapter(a_tiny("xtuner")).steps(XTUNER, preset)
    # The first two lines of the sample: 0.0971 s and 0.1065 s, 256 tokens a GPU each.
    assert steps[0].step_s == pytest.approx(0.0971 + 0.1065)
    assert steps[0].tokens == pytest.approx(2 * (2635.8872 * 0.0971 + 2403.5319 * 0.1065))
    assert len(steps) == XTUNER.count("Iter(train)") // 2


def test_xtuners_claim_is_the_biased_mean_over_micro_batches():
    preset = a_tiny("xtuner", "training.accumulation=2", "measure.warmup=0")
    claims = load_adapter(a_tiny("xtuner")).claims(XTUNER, preset)
    steps = load_adapter(a_tiny("xtuner")).steps(XTUNER, preset)
    ours = sum(s.tokens for s in steps) / sum(s.step_s for s in steps) / preset.world_size
    assert claims["tokens_per_sec, mean over micro-batches"] > ours


def _events(preset, data, claims):
    world = preset.world_size
    hellos = [Hello(world=world, host="h", device="cpu", rank=r) for r in range(world)]
    steps = [
        Step(step=i, phase="measure", rank=r, tokens=500, labels=1, loss_sum=2.0, step_s=1.0)
        for i in range(6)
        for r in range(world)
    ]
    return [*hellos, data, *steps, claims, *[Bye(rank=r) for r in range(world)]]


def test_the_result_holds_our_figure_and_the_claimed_one():
    preset = a_tiny("llamafactory")
    data = Data(
        corpus="pydoc", num_documents=1, num_tokens=750, num_full=0, num_short=1, mean_pack_tokens=750,
        tokens_lost=0, tokens_padded=250,
    )  # fmt: skip
    claims = Claimed(system="llamafactory", figures={"throughput": 1333.0})
    manifest = Manifest(
        run_id="x", preset="tiny_cpu", engine="llamafactory", created_unix=0.0, world_size=2, device="cpu"
    )
    observed = fold_events(_events(preset, data, claims), preset.world_size)
    result = build_result(manifest, preset, observed, None, None, Environment())
    assert result.status == "ok"
    assert result.tgs.median == 500
    assert result.claimed == {"throughput": 1333.0}
    assert result.packing.share_padded == pytest.approx(0.25)
    assert result.integrity.tokens_ok is None
    assert result.attention.startswith("llamafactory/")
    shown = "\n".join(summary_lines(result))
    assert "1,333 (throughput), as llamafactory counts" in shown


OOM = """\
[rank1]: Traceback (most recent call last):
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: x
"""


def test_out_of_memory_becomes_oom():
    error = exit_report.describe("xtuner", 1, OOM)
    assert isinstance(error, Error)
    assert (error.kind, error.exit_code) == ("oom", ExitCode.OOM)
    assert error.bytes_requested == int(2.5 * 2**30)
    assert error.msg.startswith("torch.OutOfMemoryError")


def test_host_memory_that_ends_is_oom_too():
    text = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes."
    error = exit_report.describe("llamafactory", 1, text)
    assert (error.kind, error.bytes_requested) == ("host_oom", 123)


def test_another_error_is_named_by_what_the_rank_raised_not_by_the_launcher():
    text = "[rank0]: ModuleNotFoundError: No module named 'x'\nfoo.errors.ChildFailedError: ranks failed\n"
    error = exit_report.describe("xtuner", 1, text)
    assert error.kind == "exception"
    assert error.msg == "ModuleNotFoundError: No module named 'x'"


def test_a_killed_rank_is_left_to_what_the_kernel_knows():
    text = " rank : 1 (local_rank: 1)\n exitcode : -9 (pid: 7)\n Signal 9 (SIGKILL) received by PID 7\n"
    assert exit_report.describe("xtuner", 1, text) is None
    killed = exit_report.killed(text)
    assert (killed.rank, killed.signal) == (1, "SIGKILL")


def test_a_step_is_shared_out_without_losing_a_token():
    assert shared_out(10, 4) == [3, 3, 2, 2]


def test_the_other_system_sees_nothing_of_our_environment():
    env = peer_environment(a_tiny("xtuner"), {"X": "1"}, {"PYTHONPATH": "/ours", "PATH": "/bin"})
    assert "PYTHONPATH" not in env
    assert env["HF_HUB_OFFLINE"] == "1"
    assert (env["X"], env["PATH"], env["DS_ACCELERATOR"]) == ("1", "/bin", "cpu")


def test_the_bridge_takes_the_agents_place():
    argv = agent_argv(Path("/r"), a_tiny("xtuner"))
    assert argv[1:] == ["-P", "-m", "tgsbench.external", "/r"]


def test_a_tied_program_ends_when_its_parent_is_killed(tmp_path):
    told = tmp_path / "pid"
    inner = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import subprocess, sys\nfrom tgsbench.system.lifetime import die_with_parent_argv as tied\n"
        f"subprocess.Popen(tied([sys.executable, '-c', {inner!r}])).wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer])
    wait_until(lambda: told.exists() and told.read_text())
    child = psutil.Process(int(told.read_text()))
    parent.kill()
    parent.wait()
    child.wait(timeout=20)
    assert not child.is_running()


def wait_until(condition, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


CHAIN = """\
Traceback (most recent call last):
ValueError: of a part that was tried and given up before

[rank0]: Traceback (most recent call last):
[rank0]:   File "torchvision/_meta_registrations.py", line 163, in <module>
[rank0]: RuntimeError: operator torchvision::nms does not exist

[rank0]: The above exception was the direct cause of the following exception:

[rank0]: Traceback (most recent call last):
[rank0]: RuntimeError: Failed to import transformers.models.llama because of the following error

[rank0]: During handling of the above exception, another exception occurred:

[rank0]: Traceback (most recent call last):
[rank0]: ModuleNotFoundError: Could not import module 'LlamaForCausalLM'
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: x
"""


def test_the_error_that_is_reported_is_the_first_of_its_chain():
    assert exit_report.describe("xtuner", 1, CHAIN).msg == (
        "RuntimeError: operator torchvision::nms does not exist"
    )


def test_our_own_ranks_name_the_cause_too():
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ImportError("cannot import LlamaForCausalLM") from error
    except ImportError as error:
        msg = describe(error).msg
    assert msg.startswith("RuntimeError: operator torchvision::nms does not exist")
    assert msg.endswith("(so ImportError: cannot import LlamaForCausalLM)")


def test_a_lock_whose_build_was_killed_is_removed_and_one_that_is_held_is_not(tmp_path):
    for op in ("dead", "alive"):
        (tmp_path / op).mkdir()
        (tmp_path / op / "lock").touch()
    said = []
    with (tmp_path / "alive" / "lock").open():
        build_locks.remove_abandoned(tmp_path, said.append)
    assert [path.parent.name for path in tmp_path.glob("*/lock")] == ["alive"]
    (text,) = said
    assert str(tmp_path / "dead" / "lock") in text


def test_on_a_disk_of_many_machines_a_young_lock_may_be_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr(build_locks, "_is_shared", lambda folder: True)
    for op in ("young", "old"):
        (tmp_path / op).mkdir()
        (tmp_path / op / "lock").touch()
    os.utime(tmp_path / "old" / "lock", (1, 1))
    build_locks.remove_abandoned(tmp_path, lambda text: None)
    assert [path.parent.name for path in tmp_path.glob("*/lock")] == ["young"]


def test_two_interpreters_build_their_extensions_in_two_folders():
    folders = {environments.extensions_dir("xtuner", python) for python in ("/a/bin/python", "/b/bin/python")}
    assert len(folders) == 2


@pytest.mark.parametrize("engine", ["xtuner", "llamafactory"])
def test_cpu_ranks_build_no_op_of_shared_memory(engine, monkeypatch):
    *_, script = load_adapter(a_tiny(engine)).program(a_tiny(engine))
    compatible, seen = {"deepspeed_shm_comm": True, "cpu_adam": True}, []
    ops = SimpleNamespace(__compatible_ops__=compatible)
    for name in ("xtuner", "xtuner.model", "xtuner.model.modules", "xtuner.model.modules.dispatch", "torch"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setitem(sys.modules, "xtuner.model.sft", MagicMock())
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(ops=ops))
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: seen.append(dict(compatible)))
    runpy.run_path(script, run_name="__main__")
    assert seen == [{"deepspeed_shm_comm": False, "cpu_adam": True}], "before its training begins"


def test_who_waits_for_what_comes_before_the_training_is_told_that_it_lives(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.5)\nprint('done')\n")
    monkeypatch.setattr("tgsbench.external.process.PEER", tmp_path)
    beats = []
    stop = SimpleNamespace(asked=False)
    peer = ExternalProcess(sys.executable, os.environ, tmp_path / "log", stop, beats.append)
    assert peer.script("slow.py") == "done"
    assert beats and all(child.pid for child in beats)


@pytest.mark.parametrize("engine", ["llamafactory", "llamafactory_v1", "xtuner_v1"])
def test_systems_that_import_a_torchvision_start_through_what_lets_them_on_a_cpu(engine):
    preset = a_tiny(engine)
    assert load_adapter(preset).program(preset)[0] == str(PEER / "other_builds.py")


def test_a_script_runs_beside_a_torchvision_of_another_build(tmp_path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "import torch\nif not hasattr(torch.ops.torchvision, 'nms'):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    audio = tmp_path / "torchaudio"
    audio.mkdir()
    (audio / "__init__.py").write_text("raise OSError('libc10_cuda.so: no such file')\n")
    looks = "from importlib.util import find_spec\nassert find_spec('torchaudio')\nimport torchaudio\n"
    (tmp_path / "script.py").write_text(f"import sys, torchvision\n{looks}print(sys.argv[1:])\n")
    argv = [str(PEER / "other_builds.py"), str(tmp_path / "script.py"), "train.yaml"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("['train.yaml']\n", 0), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("engine", "file", "num_logged", "losses"),
    [
        ("swift", "swift_2ranks.jsonl", 5, [7.67489147, 7.66762829]),
        ("torchtitan", "torchtitan_2ranks.log", 5, [8.17392, 8.04079]),
        ("xtuner_v1", "xtuner_v1_2ranks.log", 7, [7.69531345, 7.63690567]),
        ("trl", "trl_2ranks.jsonl", 7, [7.651538848876953, 7.622126579284668]),
    ],
)
def test_logs_that_the_systems_wrote_here_are_read_whole(engine, file, num_logged, losses):
    steps = load_adapter(a_tiny(engine)).steps((LOGS / file).read_text(), a_tiny(engine))
    assert len(steps) == num_logged and [step.loss for step in steps[:2]] == losses
    assert all(step.step_s > 0 for step in steps)


TRL_LOG = """\
{"tokens": 2048.0, "step_s": 4.0, "num_all_to_alls": 192, "all_to_all_bytes": 75497472.0, "loss": 7.65}
no step
{"tokens": 2048.0, "step_s": 2.0, "num_all_to_alls": 192, "all_to_all_bytes": 75497472.0, "loss": 7.62,
{"tokens": 2048, "step_s": 2, "num_all_to_alls": 192, "all_to_all_bytes": 75497472, "own_tokens_per_s": 700}
{"tokens": "many", "step_s": 1.0}
{"tokens": 2048.0, "step_s": 0.0}
"""


def test_trl_gets_the_presets_values_and_its_steps_are_what_was_seen():
    preset = a_tiny("trl", "training.accumulation=3", "training.lr=1e-4", "engine.zero_stage=2")
    adapter = load_adapter(a_tiny("trl"))
    settings = json.loads(adapter.files(preset, Path("/x"))["trl.json"])
    arguments = settings["arguments"]
    assert (arguments["gradient_accumulation_steps"], arguments["learning_rate"]) == (3, 1e-4)
    assert arguments["max_steps"] == num_steps(preset) and arguments["gradient_checkpointing"] is True
    assert (settings["sp"], settings["attention"]) == (2, "sdpa")
    assert settings["deepspeed"]["zero_optimization"]["stage"] == 2
    assert [(step.tokens, step.step_s) for step in adapter.steps(TRL_LOG, preset)] == [
        (2048, 4.0),
        (2048, 2.0),
    ]
    claims = adapter.claims(TRL_LOG, preset)
    assert claims["train_tokens_per_second"] == 700 and claims["all-to-all MiB of a step, all ranks"] == 72


@pytest.mark.parametrize(
    ("sp", "calls", "words"), [(2, 192, ""), (2, 0, "no all-to-all"), (1, 0, ""), (2, None, "")]
)
def test_a_system_that_trains_without_the_sequence_parallelism_it_was_asked_for_is_told(sp, calls, words):
    preset = a_tiny("trl", f"parallel.sp={sp}")
    step = StepReport(tokens=preset.tokens_per_step, step_s=1.0, num_all_to_alls=calls)
    assert words in " ".join(warning.msg for warning in other_work(preset, step))
    assert bool(words) == bool(other_work(preset, step))


def test_trl_keeps_documents_apart_by_flash_attn_alone():
    asked = a_tiny("trl", "workload.document_mask=true")
    assert [gap.remedy for gap in support.gaps(asked)] == [
        "--set engine.kernel=flash2, or --set workload.document_mask=false"
    ]


SWIFT_LOG = """\
{"loss": 7.7, "grad_norm": 3.0, "memory(GiB)": 2.5, "train_speed(s/it)": 4.0, "elapsed_time": "4s"}
no row
{"loss": 7.6, "train_speed(s/it)": 3.0}
{"eval_loss": 7.6, "train_speed(s/it)": 3.0}
{"train_speed(s/it)": "fast", "loss": 1.0}
"""


def test_swift_gets_the_presets_values_and_logs_a_mean_since_it_began():
    preset = a_tiny("swift", "training.accumulation=3", "training.lr=1e-4", "engine.zero_stage=2")
    adapter = load_adapter(a_tiny("swift"))
    words = adapter.arguments(preset, Path("/x"))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert (options["--gradient_accumulation_steps"], options["--learning_rate"]) == ("3", "0.0001")
    assert (options["--sequence_parallel_size"], options["--attn_impl"]) == ("2", "sdpa")
    assert (options["--torch_dtype"], options["--fp16"], options["--bf16"]) == ("float32", "false", "false")
    assert (options["--strict"], options["--dataset_shuffle"]) == ("true", "false")
    files = adapter.files(preset, Path("/x"))
    assert json.loads(files["deepspeed.json"])["zero_optimization"]["stage"] == 2
    rows = [json.loads(line) for line in files["packs.jsonl"].splitlines()]
    packs = [json.loads(row["messages"][0]["content"])["pack"] for row in rows]
    assert packs == list(range(preset.packs_per_step * num_steps(preset)))
    steps = adapter.steps(SWIFT_LOG, preset)
    assert [(step.step_s, step.loss, step.tokens) for step in steps] == [(4.0, 7.7, 0), (2.0, 7.6, 0)]
    own = adapter.own_tgs(SWIFT_LOG, preset)
    assert own.tgs == preset.tokens_per_step / 3.0 / 2 and "warm-up included" in own.basis


def test_swift_scores_every_token_where_nobody_computes_which_are_labelled(monkeypatch):
    words = load_adapter(a_tiny("swift")).arguments(a_tiny("swift"), Path("/x"))
    assert "--use_logits_to_keep" not in words
    monkeypatch.setenv("TGSBENCH_VGPU_LOG", "/x")
    words = load_adapter(a_tiny("swift")).arguments(a_tiny("swift"), Path("/x"))
    assert words[words.index("--use_logits_to_keep") + 1] == "false"


def test_swift_without_zero_is_started_without_deepspeed():
    words = load_adapter(a_tiny("swift")).arguments(a_tiny("swift", "engine.zero_stage=0"), Path("/x"))
    assert "--deepspeed" not in words


def test_swifts_template_gives_the_packs_token_for_token(tmp_path, monkeypatch):
    np.save(tmp_path / "tokens.npy", np.arange(12).reshape(2, 6))
    np.save(tmp_path / "labels.npy", np.arange(12).reshape(2, 6) - 100)
    np.save(tmp_path / "lengths.npy", np.array([6, 4]))
    template = SimpleNamespace(Template=object, TemplateMeta=MagicMock(), register_template=MagicMock())
    monkeypatch.setitem(sys.modules, "swift", SimpleNamespace(template=template))
    monkeypatch.setitem(sys.modules, "swift.template", template)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    packs = runpy.run_path(str(PEER / "swift_packs.py"))["Packs"]()
    content = json.dumps({"folder": str(tmp_path), "pack": 1})
    encoded = packs._encode(SimpleNamespace(messages=[{"content": content}]))
    assert encoded["input_ids"] == [6, 7, 8, 9]
    assert encoded["labels"] == [-94, -93, -92, -91]


@pytest.mark.parametrize("script", ["swift_prepare.py", "xtuner_prepare.py"])
def test_half_written_weights_have_no_configuration_and_whole_ones_have(tmp_path, monkeypatch, script):
    pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    write_model = runpy.run_path(str(PEER / script))["write_model"]
    path = tmp_path / "weights" / "a"
    killed = [True]

    def save_pretrained(folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text("{}")
        if killed:
            raise KeyboardInterrupt
        (Path(folder) / "model.safetensors").write_text("")

    model = SimpleNamespace(save_pretrained=save_pretrained)
    monkeypatch.setitem(
        write_model.__globals__, "AutoModelForCausalLM", SimpleNamespace(from_config=lambda _: model)
    )
    monkeypatch.setitem(write_model.__globals__, "torch", MagicMock())
    with pytest.raises(KeyboardInterrupt):
        write_model(path, {"model_type": "llama", "torch_dtype": "float32"})
    assert not (path / "config.json").exists()
    killed.clear()
    write_model(path, {"model_type": "llama", "torch_dtype": "float32"})
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert [entry.name for entry in path.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("engine", ["swift", "xtuner"])
def test_packs_and_the_models_settings_lie_ready_when_weights_are_written(tmp_path, engine):
    preset = a_tiny(engine, "workload.corpus=lengths")
    seen, said = [], []

    def script(name: str, folder: str) -> str:
        seen.append((name, json.loads((Path(folder) / "model.json").read_text())["_path"]))
        assert np.load(Path(folder) / "tokens.npy", mmap_mode="r").shape[1] == preset.workload.seq_len
        return ""

    peer = SimpleNamespace(script=script)
    data, _ = load_adapter(a_tiny(engine)).prepare(preset, tmp_path, peer, said.append)
    assert data.num_tokens > 0
    assert seen == [(f"{engine}_prepare.py", str(weights_dir(preset)))]
    assert "random weights for" in said[-1]


TITAN_LOG = """\
2026-11-28 step:  1  loss:  8.17392  memory:  0.00GiB(0.00%)  tps: 4  tflops: 0.00  mfu: 0.00%
2026-11-28 step:  2  loss:  8.04079  memory:  0.00GiB(0.00%)  tps: 256  tflops: 0.00  mfu: 0.00%
"""


def test_torchtitan_gets_the_presets_values_and_its_tps_are_of_one_rank():
    preset = a_tiny("torchtitan", "training.accumulation=2", "measure.warmup=1")
    adapter = load_adapter(a_tiny("torchtitan"))
    settings = json.loads(adapter.files(preset, Path("/x"))["titan.json"])
    assert settings["training"]["global_batch_size"] == 4
    assert settings["training"]["steps"] == num_steps(preset)
    assert settings["parallelism"]["context_parallel_degree"] == 1
    assert settings["model"]["n_kv_heads"] == preset.model.num_kv_heads
    steps = adapter.steps(TITAN_LOG, preset)
    assert [(step.step_s, step.loss) for step in steps] == [(512.0, 8.17392), (8.0, 8.04079)]
    assert adapter.own_tgs(TITAN_LOG, preset).tgs == 256


@pytest.mark.parametrize(("by", "degrees"), [("context", (4, 1)), ("tensor", (1, 4))])
def test_torchtitan_shares_a_sequence_by_rings_or_by_tensors_on_gpus(by, degrees):
    sets = ("engine.name=torchtitan", "training.checkpointing=full", "parallel.sp=4", f"engine.sp_by={by}")
    preset = a_preset("llama3_8b_32k", *sets)
    assert support.gaps(preset) == []
    meshes = json.loads(load_adapter(preset).files(preset, Path("/x"))["titan.json"])["parallelism"]
    assert (meshes["context_parallel_degree"], meshes["tensor_parallel_degree"]) == degrees


def test_torchtitans_ranks_are_dealt_packs_in_turn_with_labels_beside_their_tokens(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(16, dtype=np.int32).reshape(4, 4))
    labels = np.arange(16, dtype=np.int32).reshape(4, 4)
    labels[:, 0] = -100
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "starts.json").write_text("[[0, 3], [0], [0], [0, 1]]")
    batches = runpy.run_path(str(PEER / "titan_train.py"))["batches"]
    dealt = [list(batches(tmp_path, rank, 2, 1)) for rank in (0, 1)]
    assert [shown["input"][0, 0].item() for shown, _ in dealt[0]] == [0, 8]
    assert [shown["input"][0, 0].item() for shown, _ in dealt[1]] == [4, 12]
    assert dealt[0][0][1].tolist() == [[1, 2, 3, -100]]
    assert dealt[0][0][0]["positions"].tolist() == [[0, 1, 2, 0]]
    assert dealt[1][1][0]["positions"].tolist() == [[0, 0, 1, 2]]


def test_xtuner_v1_gets_the_presets_values():
    preset = a_tiny("xtuner_v1", "training.accumulation=3", "training.lr=1e-4")
    settings = json.loads(load_adapter(a_tiny("xtuner_v1")).files(preset, Path("/x"))["xtuner_v1.json"])
    assert settings["trainer"]["global_batch_size"] == 3 and settings["trainer"]["sp_size"] == 2
    assert settings["trainer"]["total_step"] == num_steps(preset)
    assert settings["trainer"]["dist_backend"] == "gloo"
    assert settings["optim_cfg"]["lr"] == 1e-4
    assert settings["loss_cfg"] == {"mode": "chunk", "chunk_size": 2048}
    assert settings["fsdp_cfg"]["recompute_ratio"] == 1.0
    assert settings["model"]["attention"]["attn_impl"] == "eager_attention"
    on_gpus = a_preset("llama2_7b_128k", "engine.name=xtuner_v1", "training.checkpointing=none")
    assert support.gaps(on_gpus) == []
    settings = json.loads(load_adapter(a_tiny("xtuner_v1")).files(on_gpus, Path("/x"))["xtuner_v1.json"])
    assert settings["fsdp_cfg"]["recompute_ratio"] == 0.0 and "dist_backend" not in settings["trainer"]
    assert settings["model"]["attention"]["attn_impl"] == "flash_attention"


def test_xtuner_v1_does_not_take_another_attention_than_was_asked_for(monkeypatch):
    def config(**values):
        return SimpleNamespace(**values)

    model = runpy.run_path(str(PEER / "xtuner_v1_train.py"))["model"]
    base = SimpleNamespace(RopeParametersConfig=config)
    monkeypatch.setitem(sys.modules, "xtuner.v1.model.base", base)
    monkeypatch.setitem(sys.modules, "xtuner.v1.model.dense.qwen2", SimpleNamespace(Qwen2DenseConfig=config))
    attention = SimpleNamespace(MHAConfig=lambda **_: config(attn_impl="flex_attention"))
    monkeypatch.setitem(sys.modules, "xtuner.v1.module.attention", attention)
    settings = {"rope_theta": 1e4, "attention": {"attn_impl": "flex_attention"}}
    assert model(settings).attention.attn_impl == "flex_attention"
    settings["attention"]["attn_impl"] = "flash_attention"
    with pytest.raises(ModuleNotFoundError, match="flex_attention for flash_attention: install flash-attn"):
        model(settings)


def test_xtuner_v1_ranks_each_count_their_piece_of_a_sequence(tmp_path):
    (tmp_path / "logs").mkdir()
    for rank, tgs in enumerate((566.3, 448.2)):
        line = f"[XTuner] Epoch 1 Step 1/6 data_time: 0.1 lr: 0 time: 2.0 tgs: {tgs} seqlen_tgs: 1"
        (tmp_path / "logs" / f"rank{rank}.log").write_text(f"Training begins\n{line}\n")
    preset, adapter = a_tiny("xtuner_v1", "measure.warmup=0"), load_adapter(a_tiny("xtuner_v1"))
    log = adapter.read_log(tmp_path)
    (step,) = adapter.steps(log, preset)
    assert step.tokens == pytest.approx((566.3 + 448.2) * 2.0) and step.step_s == 2.0
    assert adapter.own_tgs(log, preset).tgs == pytest.approx((566.3 + 448.2) / 2)


def test_xtuner_v1_is_dealt_whole_packs_with_labels_beside_their_tokens(tmp_path):
    tokens = np.arange(16, dtype=np.int32).reshape(4, 4)
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "labels.npy", tokens)
    (tmp_path / "starts.json").write_text("[[0, 3], [0], [0], [0, 1]]")
    batches = runpy.run_path(str(PEER / "xtuner_v1_train.py"))["batches"]
    first, second = [list(batches(tmp_path, rank, 2, 2)) for rank in (0, 1)]
    assert [[pack[0].tolist()[0] for pack in step] for step in first] == [[0, 4]]
    assert [[pack[0].tolist()[0] for pack in step] for step in second] == [[8, 12]]
    assert first[0][0][1].tolist() == [1, 2, 3, -100] and first[0][0][2] == [0, 3, 4]
    assert second[0][1][2] == [0, 1, 4]


BRIDGE_LOG = """\
Step Time : 12.50s GPU utilization: 211.0MODEL_TFLOP/s/GPU
 [2026-11-29 10:00:00] iteration        1/       6 | consumed samples:            2 | elapsed time per iteration (ms): 12500.0 | learning rate: 1.000000E-05 | global batch size:     2 | lm loss: 1.052345E+01 | loss scale: 1.0 | grad norm: 3.4 |
Step Time : 2.00s GPU utilization: 420.5MODEL_TFLOP/s/GPU
 [2026-11-29 10:00:02] iteration        2/       6 | consumed samples:            4 | elapsed time per iteration (ms): 2000.0 | learning rate: 2.000000E-05 | global batch size:     2 | lm loss: 1.050000E+01 | loss scale: 1.0 | grad norm: 3.1 |
"""  # noqa: E501


def a_bridge(*sets: str):
    return a_preset("llama3_8b_32k", "engine.name=megatron_bridge", "training.checkpointing=full", *sets)


def test_megatron_bridge_is_given_names_that_its_classes_have():
    known = json.loads((LOGS.parent / "megatron_bridge_0.3.1_fields.json").read_text())
    for sets in (["parallel.sp=4"], ["parallel.sp=1", "training.checkpointing=none"]):
        preset = a_bridge(*sets)
        assert support.gaps(preset) == []
        settings = json.loads(load_adapter(preset).files(preset, Path("/x"))["bridge.json"])
        tables = {name: table for name, table in settings.items() if isinstance(table, dict)}
        ours = {"dataset": {"seq_length"}}  # of the data set that our script declares
        strange = {n: set(t) - set(known[n]) - ours.get(n, set()) for n, t in tables.items()}
        assert {name: names for name, names in strange.items() if names} == {}
        assert set(tables) | {"mixed_precision"} <= set(known["container"])
        assert settings["model"]["context_parallel_size"] == preset.parallel.sp
        assert ("recompute_method" in settings["model"]) == (preset.training.checkpointing == "full")
        assert settings["train"]["global_batch_size"] == preset.packs_per_step


def test_megatron_bridges_lines_are_steps_by_its_own_clock():
    preset, adapter = a_bridge("parallel.sp=4", "measure.warmup=1"), load_adapter(a_bridge())
    steps = adapter.steps(BRIDGE_LOG, preset)
    assert [(s.step_s, s.loss, s.tokens) for s in steps] == [
        (12.5, 10.52345, 2 * 32768),
        (2.0, 10.5, 2 * 32768),
    ]
    assert adapter.claims(BRIDGE_LOG, preset) == {"MODEL_TFLOP/s/GPU, mean over steps": 420.5}
    assert adapter.own_tgs(BRIDGE_LOG, preset) is None


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        (("tiny_cpu", "engine.name=megatron_bridge", "training.checkpointing=full"), "Transformer Engine"),
        (("llama3_8b_32k", "engine.name=megatron_bridge", "parallel.sp=4", "engine.kernel=flash3"), "flash3"),
        (("llama3_8b_32k", "engine.name=megatron_bridge", "engine.liger=true"), "Liger"),
    ],
)
def test_megatron_bridge_is_refused_with_the_reason(preset, said):
    with pytest.raises(TgsError, match=said) as raised:
        support.check(a_preset(*preset))
    assert raised.value.exit_code == ExitCode.UNSUPPORTED and raised.value.hint


def test_megatron_bridge_is_dealt_packs_with_labels_beside_their_tokens(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(8, dtype=np.int32).reshape(2, 4))
    np.save(tmp_path / "labels.npy", np.array([[-100, 1, -100, 3], [-100, 5, 6, 7]], np.int32))
    packs = runpy.run_path(str(PEER / "bridge_train.py"))["PackSamples"](tmp_path)
    sample = packs[0]
    assert len(packs) == 2 and sample["tokens"].tolist() == [0, 1, 2, 3]
    assert sample["labels"].tolist() == [1, 0, 3, 0] and sample["loss_mask"].tolist() == [1, 0, 1, 0]
    assert sample["position_ids"].tolist() == [0, 1, 2, 3]
