"""The DeepSpeed engine on two and four gloo ranks trains what fsdp2 trains on one; its traps stay shut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.dist.deepspeed_cases import CASES, ds_preset, peer_preset
from tests.dist.launch import ROOT
from tests.dist.parity_worker import make_batch
from tgsbench.training.engines.deepspeed import setup
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.training.model.build import decoder_config, plain_name
from tgsbench.training.parallel.mesh import build_mesh

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.dist
WORKER = Path(__file__).with_name("deepspeed_worker.py")
_COMPILES = shutil.which("g++") is None or shutil.which("ninja") is None
_SKIPPED = {name for name in CASES if name.startswith(("offload-opt", "offload-all", "offload-zero"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("deepspeed")
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, str(WORKER), str(out)], env=env, check=True, timeout=900)
    return out


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Makes the outcome of fsdp2 on one rank, once for each different preset."""
    store = tmp_path_factory.mktemp("peer") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    made: dict[bytes, dict] = {}

    def outcome(case: str) -> dict:
        import msgspec

        preset = peer_preset(case)
        key = msgspec.json.encode(preset)
        if key not in made:
            made[key] = _step(preset)
        return made[key]

    yield outcome
    dist.destroy_process_group()


def _step(preset) -> dict:
    mesh = build_mesh("cpu", 1)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    batch, num_labels = make_batch(preset, mesh)
    num_labels *= preset.accumulation
    loss = sum(engine.forward_backward(batch, num_labels) for _ in range(preset.accumulation))
    grads = {plain_name(name): grad.clone() for name, grad in engine.gradients()}
    return {"loss": loss / num_labels, "grads": grads, "norm": engine.optimizer_step(1e-3)}


@pytest.fixture
def outcome(folder, request) -> dict:
    case = request.node.callspec.params["case"]
    if case in _SKIPPED and _COMPILES:
        pytest.skip("DeepSpeed compiles its CPU Adam with g++ and ninja")
    failures = sorted(folder.glob(f"{case}.rank*.txt"))
    assert not failures, failures[0].read_text()[-4000:]
    return torch.load(folder / f"{case}.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_agree_with_fsdp2_on_one_rank(outcome, one_rank, case):
    peer = one_rank(case)
    bound = 2e-6 if ds_preset(case).training.compute_dtype == "float32" else 2e-2
    torch.testing.assert_close(outcome["loss"], peer["loss"], rtol=bound, atol=0)
    assert outcome["grads"].keys() == peer["grads"].keys()
    for name, grad in peer["grads"].items():
        error = (outcome["grads"][name] - grad).norm() / grad.norm()
        assert error < bound, f"{name}: relative error {error:.1e}"
    torch.testing.assert_close(outcome["norm"], peer["norm"], rtol=bound, atol=0, check_dtype=False)


@pytest.mark.parametrize("case", CASES)
def test_all_to_all_calls_and_bytes_follow_from_the_shapes(outcome, case):
    assert tuple(outcome["a2a"].tolist()) == expected_all_to_alls(ds_preset(case))


@pytest.mark.parametrize("case", [name for name in CASES if ds_preset(name).attention == "alst"])
def test_positions_are_gathered_once_for_a_micro_step_not_in_every_layer(outcome, case):
    assert outcome["position_gathers"] == ds_preset(case).accumulation


@pytest.mark.parametrize("case", ["alst", "native"])
def test_the_process_wide_patch_leaves_other_attention_functions_alone(outcome, case):
    assert outcome["sdpa_is_untouched"]


@pytest.mark.parametrize("case", ["alst-bf16"])
def test_rotary_frequencies_keep_fp32_under_zero_init(outcome, case):
    preset = ds_preset(case)
    exact = LlamaRotaryEmbedding(decoder_config(preset.model, preset.workload.seq_len, "sdpa")).inv_freq
    assert torch.equal(outcome["inv_freq"], exact)
    assert not torch.equal(exact.bfloat16().float(), exact), "else this test could not fail"


@pytest.mark.parametrize("case", ["offload-optimizer"])
def test_an_op_that_must_be_built_or_loaded_is_announced(outcome, case):
    assert any("cpu_adam" in note for note in outcome["notes"]), outcome["notes"]


def test_cpu_ranks_are_counted_without_a_process_at_every_reduction(monkeypatch):
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("LOCAL_SIZE", "")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(subprocess, "check_output", lambda *_: pytest.fail("a process was started"))
    setup.name_cpu_ranks()
    assert CPU_Accelerator().device_count() == 4
