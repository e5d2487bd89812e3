"""The fsdp2 engine on one GPU: every option trains what the plain path trains, in fp32; memory; Liger."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from benchmarks.gpu_rank import single_rank_group
from tgsbench import presets
from tgsbench.training.model import fused_layers
from tgsbench.training.model.loss import liger_linear_cross_entropy, linear_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_liger = pytest.mark.skipif(not fused_layers.liger_version(), reason="needs liger-kernel")

_SHAPE = [
    "model.num_layers=3", "model.hidden_size=512", "model.intermediate_size=1024", "model.num_query_heads=8",
    "model.num_kv_heads=2", "model.head_dim=64", "model.vocab_size=1024", "workload.corpus=lengths",
    "workload.concat=1", "workload.seq_len=4096", "parallel.sp=1", "hardware.num_gpus=1",
    "engine.loss_chunk_tokens=512",
]  # fmt: skip


def _gradients(*sets: str, dtype: str = "float32") -> tuple[float, dict[str, torch.Tensor]]:
    from benchmarks.gpu_rank import Rank

    preset = presets.resolve("llama3_1b_8k", [*_SHAPE, f"training.compute_dtype={dtype}", *sets]).preset
    with single_rank_group(preset):
        rank = Rank(preset)
        loss = float(rank.engine.forward_backward(rank.batch, rank.num_labels)) / rank.num_labels
        grads = {name: grad.clone() for name, grad in rank.engine.gradients()}
        del rank
        gc.collect()
    fused_layers.unfuse()
    return loss, grads


@pytest.fixture(scope="module")
def plain():
    return _gradients("training.checkpointing=none", "engine.kernel=sdpa")


_OPTIONS = {
    "selective": ["training.checkpointing=selective"],
    "full": ["training.checkpointing=full"],
    "offload": ["training.checkpointing=full", "engine.activation_offload=true"],
    "offload-selective": ["training.checkpointing=selective", "engine.activation_offload=true"],
    "tiled": ["training.checkpointing=full", "engine.tiled_mlp=true"],
    "compile": ["training.checkpointing=selective", "engine.compile=true"],
    "liger": ["training.checkpointing=selective", "engine.liger=true"],
}


@pytest.mark.parametrize("option", _OPTIONS)
def test_fp32_losses_and_gradients_are_those_of_the_plain_path(plain, option, monkeypatch):
    if option == "liger" and not fused_layers.liger_version():
        pytest.skip("needs liger-kernel")
    monkeypatch.setattr(fused_layers.TiledMLP, "tile_tokens", 1000)
    loss, grads = _gradients("engine.kernel=sdpa", *_OPTIONS[option])
    assert loss == pytest.approx(plain[0], rel=1e-5)
    for name, grad in plain[1].items():
        ours = grads[name]
        error = float((ours - grad).norm() / grad.norm())
        # Liger's RMSNorm casts the reciprocal root alone to fp32, which fp32 does not notice.
        assert error < 1e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("mask", ["false", "true"], ids=["whole pack", "documents"])
def test_bf16_with_the_measured_kernel_stays_near_fp32(plain, mask):
    loss, grads = _gradients("engine.kernel=auto", f"workload.document_mask={mask}", dtype="bfloat16")
    if mask == "false":
        assert loss == pytest.approx(plain[0], rel=2e-3)
        for name, grad in plain[1].items():
            assert float((grads[name] - grad).norm() / grad.norm()) < 0.1, name
    else:
        reference = _gradients("engine.kernel=sdpa", "workload.document_mask=true")
        assert loss == pytest.approx(reference[0], rel=2e-3)


def test_offload_keeps_layer_inputs_off_the_device():
    from benchmarks.gpu_sections import measure, preset_of

    sets = {
        "training.checkpointing": "full", "model.num_layers": 8, "model.hidden_size": 1024,
        "model.intermediate_size": 2048, "model.num_query_heads": 8, "model.num_kv_heads": 8,
        "model.head_dim": 128, "model.vocab_size": 1024, "workload.seq_len": 65536,
    }  # fmt: skip
    peaks = {
        on: measure(preset_of("llama3_1b_8k", False, **sets, **{"engine.activation_offload": on}), 1).peak_gib
        for on in (False, True)
    }
    inputs_gib = 8 * 65536 * 1024 * 2 / 2**30
    # All but the two or three layers whose input is under way.
    assert peaks[False] - peaks[True] > 0.5 * inputs_gib, peaks


def _both(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, leaves, torch.randn_like(out))]


def _same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.float() - b.float()).norm() / b.float().norm()) < tolerance


_CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=2
)


@pytest.mark.parametrize(
    "kind", [fused_layers.FusedNorm, pytest.param(fused_layers.LigerNorm, marks=needs_liger)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_norms_match_transformers(kind, dtype, tolerance):
    norm = LlamaRMSNorm(512, eps=1e-5).cuda().to(dtype)
    twin = copy.deepcopy(norm)
    twin.__class__ = kind
    x = torch.randn(1, 300, 512, device="cuda", dtype=dtype)
    _same(_both(twin, x), _both(norm, x), tolerance)


@pytest.mark.parametrize(
    "kind", [fused_layers.FusedMLP, pytest.param(fused_layers.LigerMLP, marks=needs_liger)]
)
def test_swiglus_match_transformers(kind):
    mlp = LlamaMLP(_CONFIG).cuda()
    twin = copy.deepcopy(mlp)
    twin.__class__ = kind
    x = torch.randn(1, 300, 512, device="cuda")
    _same(_both(twin, x), _both(mlp, x), 1e-4)


@needs_liger
def test_liger_rope_and_loss_match_torch_code():
    rotary = modeling_llama.LlamaRotaryEmbedding(_CONFIG).cuda()
    q, k = torch.randn(1, 300, 8, 64, device="cuda"), torch.randn(1, 300, 2, 64, device="cuda")
    cos, sin = rotary(q, torch.arange(300, device="cuda")[None] * 7)

    def join(rope):
        return lambda q, k: torch.cat(
            [x.flatten() for x in rope(q.clone().transpose(1, 2), k.clone().transpose(1, 2), cos, sin)]
        )

    plain = modeling_llama.apply_rotary_pos_emb
    _same(_both(join(fused_layers._liger_rope()), q, k), _both(join(plain), q, k), 1e-5)
    hidden, weight = torch.randn(500, 128, device="cuda"), torch.randn(1000, 128, device="cuda")
    labels = torch.randint(0, 1000, (500,), device="cuda")
    labels[::7] = -100
    ours = _both(lambda h, w: liger_linear_cross_entropy(h, w, labels), hidden, weight)
    _same(ours, _both(lambda h, w: linear_cross_entropy(h, w, labels, 128), hidden, weight), 1e-4)
