"""LLaMA-Factory 0.9.5, ms-swift 4.6.0, torchtitan 0.3.0, TRL 1.16.0, XTuner 0.2.0 on two CPU ranks.

XTuner's main too, where an environment with it is named. `make test-peers` makes the others' environments.
What was measured is written to benchmarks/results/peers_cpu.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tgsbench.api as api
from tgsbench.external.bridge import load_adapter
from tgsbench.external.process import PEER
from tgsbench.systems import environments

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers_cpu.json"
COMMON = ["--set", "training.checkpointing=full", "--steps", "6", "--warmup", "2", "--headless", "--json"]


def measure(engine: str, tmp_path: Path, *options: str, key: str = "") -> dict:
    argv = [sys.executable, "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--engine", engine]
    argv += [*options, *COMMON, "--output", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=560)
    assert done.returncode == 0, done.stderr[-6000:]
    result = json.loads(done.stdout)
    keep(key or engine, result)
    return result


def keep(key: str, result: dict) -> None:
    """Add the figures to the committed file."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = ("status", "preset", "engine", "attention", "world_size", "sp", "seq_len", "tgs", "tflops")
    names += ("step_s", "mem", "loss", "packing", "claimed", "warnings", "disturbances")
    versions = result["environment"]["versions"]
    kept[key] = {name: result[name] for name in names} | {"versions": versions}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


@pytest.mark.skipif(bool(environments.find_environment("llamafactory").missing), reason="make peers")
def test_llamafactory_trains_a_preset(tmp_path):
    result = measure("llamafactory", tmp_path, "--set", "parallel.sp=1")
    assert result["status"] == "ok"
    assert result["tgs"]["n"] == 6
    assert result["environment"]["versions"]["llamafactory"] == "0.9.5"
    claimed = result["claimed"]["throughput, tokens/s over all GPUs"]
    assert claimed > 0
    padded = result["packing"]["share_padded"]
    assert 0 <= padded < 0.05
    # Each step holds exactly what was asked for, padding included.
    steps = zip(result["tgs"]["samples"], result["step_s"]["samples"], strict=True)
    for tgs, step_s in steps:
        assert tgs * step_s * 2 == pytest.approx(result["tokens_per_step"] * (1 - padded), rel=0.01)
    assert result["loss"]["last"] < result["loss"]["first"] + 0.1


@pytest.mark.skipif(bool(environments.find_environment("llamafactory").missing), reason="make peers")
def test_llamafactorys_v1_trainer_trains_our_packs(tmp_path):
    options = ["engine.use_v1=true", "parallel.sp=1", "workload.document_mask=true"]
    words = [word for option in options for word in ("--set", option)]
    result = measure("llamafactory", tmp_path, *words, key="llamafactory_v1")
    assert (result["status"], result["tgs"]["n"]) == ("ok", 6)
    exact(result)
    assert result["claimed"]["labels of a step at the loss, all ranks"] > 0
    assert result["loss"]["last"] < result["loss"]["first"] + 0.1


@pytest.mark.skipif(bool(environments.find_environment("xtuner").missing), reason="make peers")
def test_xtuner_trains_a_preset_with_sequence_parallel_size_2(tmp_path):
    result = measure("xtuner", tmp_path, "--set", "engine.cpu_shim=true")
    assert result["status"] == "ok"
    assert (result["sp"], result["tgs"]["n"]) == (2, 6)
    assert result["environment"]["versions"]["xtuner"] == "0.2.0"
    steps = zip(result["tgs"]["samples"], result["step_s"]["samples"], strict=True)
    for tgs, step_s in steps:
        assert tgs * step_s * 2 == pytest.approx(result["tokens_per_step"], rel=0.01)
    assert result["claimed"]["tokens_per_sec, mean over micro-batches"] > 0


@pytest.mark.skipif(bool(environments.find_environment("trl").missing), reason="make peers")
@pytest.mark.parametrize("sp", [1, 2])
def test_trl_trains_a_preset_with_and_without_sequence_parallelism(tmp_path, sp):
    result = measure("trl", tmp_path, "--set", f"parallel.sp={sp}")
    assert (result["status"], result["sp"], result["tgs"]["n"]) == ("ok", sp, 6)
    assert result["environment"]["versions"]["trl"] == "1.16.0"
    steps = zip(result["tgs"]["samples"], result["step_s"]["samples"], strict=True)
    for tgs, step_s in steps:
        assert tgs * step_s * 2 == pytest.approx(result["tokens_per_step"], rel=0.001)
    calls = result["claimed"]["all-to-alls of a step, all ranks"]
    assert (calls > 0) == (sp > 1)
    assert result["packing"]["share_padded"] == 0
    assert not result["warnings"] or "tokens a step" not in str(result["warnings"])


@pytest.mark.skipif(bool(environments.find_environment("swift").missing), reason="make peers")
@pytest.mark.parametrize("sp", [1, 2])
def test_swift_trains_a_preset_with_and_without_sequence_parallelism(tmp_path, sp):
    result = measure("swift", tmp_path, "--set", f"parallel.sp={sp}")
    assert (result["status"], result["sp"], result["tgs"]["n"]) == ("ok", sp, 6)
    assert result["environment"]["versions"]["ms-swift"] == "4.6.0"
    exact(result)
    assert (result["claimed"]["all-to-alls of a step, all ranks"] > 0) == (sp > 1)
    assert result["claimed"]["labels of a step at the loss, all ranks"] > 0


@pytest.mark.skipif(bool(environments.find_environment("torchtitan").missing), reason="make peers")
def test_torchtitan_trains_a_preset_by_data_parallelism(tmp_path):
    result = measure("torchtitan", tmp_path, "--set", "parallel.sp=1")
    assert (result["status"], result["tgs"]["n"]) == ("ok", 6)
    assert result["environment"]["versions"]["torchtitan"] == "0.3.0"
    exact(result)
    # What it says of itself in whole tokens a second, by a clock of its own.
    assert result["claimed_tgs"] == pytest.approx(result["tgs"]["total"], rel=0.05)


@pytest.mark.skipif(
    bool(environments.find_environment("xtuner_v1").missing), reason="engines setup xtuner_v1 --source PATH"
)
@pytest.mark.parametrize("sp", [1, 2])
def test_xtuner_v1_trains_a_preset_with_and_without_sequence_parallelism(tmp_path, sp):
    result = measure("xtuner_v1", tmp_path, "--set", f"parallel.sp={sp}")
    assert (result["status"], result["sp"], result["tgs"]["n"]) == ("ok", sp, 6)
    exact(result)
    # q, k, v and the output of four layers, forward, recomputed and backward, of both ranks' micro-steps.
    asked = 4 * 4 * 3 * 2 * 2 if sp == 2 else 0
    assert result["claimed"]["all-to-alls of a step, all ranks"] == asked
    # The last token of a pack has no next one; documents' first tokens are no targets of packed answers.
    assert 0 < result["claimed"]["labels of a step at the loss, all ranks"] <= result["tokens_per_step"] - 2


def exact(result: dict) -> None:
    """Each step holds exactly what was asked for."""
    for tgs, step_s in zip(result["tgs"]["samples"], result["step_s"]["samples"], strict=True):
        assert tgs * step_s * 2 == pytest.approx(result["tokens_per_step"], rel=0.001)
    assert not result["warnings"] or "tokens a step" not in str(result["warnings"])


@pytest.mark.skipif(bool(environments.find_environment("torchtitan").missing), reason="make peers")
@pytest.mark.parametrize(
    ("shared_by", "said"), [("context", "context_parallel_degree=4"), ("tensor", "tensor_parallel_degree=4")]
)
def test_what_gpus_would_be_given_is_taken_by_torchtitans_own_classes(tmp_path, shared_by, said):
    options = ["engine.name=torchtitan", "training.checkpointing=full", f"engine.sp_by={shared_by}"]
    preset = api.load_preset("llama2_70b_32k", options)
    settings = tmp_path / "titan.json"
    settings.write_text(load_adapter(preset).files(preset, tmp_path)["titan.json"])
    code = "import json, runpy, sys\nthere = runpy.run_path(sys.argv[1])\n"
    code += "print(there['configuration'](json.load(open(sys.argv[2]))).parallelism)\n"
    python = environments.find_environment("torchtitan").python
    argv = [python, "-c", code, str(PEER / "titan_train.py"), str(settings)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert said in done.stdout
