"""Fused norms, RoPE, SwiGLU and the tiled MLP against transformers' own code, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.preset import EngineOptions
from tgsbench.training.model import fused_layers
from tgsbench.training.model.llama import BUILDER
from tgsbench.training.model.products import LayerProducts
from tgsbench.training.model.tiled_mlp import tiled_mlp, tiles_backward, tiles_forward

_CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, attn_implementation="sdpa",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_rope_after():
    yield
    fused_layers.unfuse()


def _gradients(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, leaves, torch.randn_like(out))]


def _same(ours, theirs, tolerance: float = 1e-5):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_norm_matches_transformers():
    norm = LlamaRMSNorm(64, eps=1e-5)
    with torch.no_grad():
        norm.weight.normal_()
    twin = copy.deepcopy(norm)
    twin.__class__ = fused_layers.FusedNorm
    x = torch.randn(2, 10, 64)
    _same(_gradients(twin, x), _gradients(norm, x))
    _same(torch.autograd.grad(twin(x).sum(), twin.weight), torch.autograd.grad(norm(x).sum(), norm.weight))


def test_rope_matches_transformers():
    rotary = modeling_llama.LlamaRotaryEmbedding(_CONFIG)
    q, k = torch.randn(2, 4, 12, 16), torch.randn(2, 2, 12, 16)
    cos, sin = rotary(q, torch.arange(12).expand(2, -1) * 7)

    def join(rope):
        return lambda q, k: torch.cat([x.flatten() for x in rope(q, k, cos, sin)])

    plain = modeling_llama.apply_rotary_pos_emb
    _same(_gradients(join(fused_layers.fused_rope), q, k), _gradients(join(plain), q, k))


def test_rope_takes_angles_of_one_half_as_of_both():
    x = torch.randn(2, 4, 12, 16)
    cos, sin = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    narrow = fused_layers.fused_rope(x, x, cos, sin)
    wide = fused_layers.fused_rope(x, x, cos.repeat(1, 1, 2), sin.repeat(1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(narrow, wide, strict=True))


def test_swiglu_matches_transformers():
    mlp = LlamaMLP(_CONFIG)
    twin = copy.deepcopy(mlp)
    twin.__class__ = fused_layers.FusedMLP
    x = torch.randn(2, 10, 64)
    _same(_gradients(twin, x), _gradients(mlp, x))


@pytest.mark.parametrize("tile", [1, 7, 20, 64], ids=lambda n: f"tiles of {n}")
def test_tiled_mlp_matches_transformers_whatever_the_tile(tile):
    mlp = LlamaMLP(_CONFIG)
    x = torch.randn(2, 10, 64)
    weights = [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight]

    def plain(x, gate, up, down):
        product = torch.nn.functional.silu(x @ gate.t()) * (x @ up.t())
        return product @ down.t()

    _same(_gradients(lambda *a: tiled_mlp(*a, tile), x, *weights), _gradients(plain, x, *weights))


def _in_float64(monkeypatch, tiled: bool) -> list[torch.Tensor]:
    monkeypatch.setattr(fused_layers.TiledMLP, "tile_tokens", 5)
    torch.manual_seed(0)
    model = LlamaModel(_CONFIG).double()
    ids, weights = torch.randint(0, 64, (1, 12)), torch.randn(1, 12, 64)

    def gradients():
        loss = (model(ids).last_hidden_state * weights).sum()
        return torch.autograd.grad(loss, list(model.parameters()))

    plain = gradients()
    said = BUILDER.fuse(model, EngineOptions(tiled_mlp=tiled))
    assert "torch" in said and ("tiled" in said) == tiled
    again = gradients()
    return [(a - b).norm() / b.norm() for a, b in zip(again, plain, strict=True)]


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
def test_a_fused_decoder_has_the_plain_one_s_gradients(monkeypatch, tiled):
    # Norms go through fp32 whatever the dtype, hence 2e-6 in float64.
    assert max(_in_float64(monkeypatch, tiled)) < 2e-6


def test_fusing_keeps_names_and_values():
    model = LlamaModel(_CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    BUILDER.fuse(model, EngineOptions(tiled_mlp=True))
    after = model.state_dict()
    assert list(before) == list(after)
    _same(list(after.values()), list(before.values()), 0.0)


@pytest.mark.skipif(bool(fused_layers.liger_version()), reason="liger-kernel is installed")
def test_liger_is_refused_with_a_remedy_where_it_is_missing():
    with pytest.raises(TgsError) as caught:
        BUILDER.fuse(LlamaModel(_CONFIG), EngineOptions(liger=True))
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY


@pytest.mark.parametrize("num_rows", [0, 3, 7])
def test_a_norms_gradient_is_added_in_rows_as_at_once(num_rows):
    torch.manual_seed(0)
    x, grad, before, weight = (torch.randn(*size) for size in ((7, 16), (7, 16), (7, 16), (16,)))
    _, inverse = fused_layers.norm_forward(x, weight, 1e-5)
    grad_x, of_weight = fused_layers.norm_backward(grad, x, inverse, weight)
    total = before.clone()
    given = fused_layers.add_norm_backward(total, grad, x, inverse, weight, num_rows)
    _same([total, given], [before + grad_x, of_weight])


def test_tiles_may_be_written_over_their_rows():
    torch.manual_seed(0)
    rows, grad, *weights = (torch.randn(*size) for size in ((7, 16), (7, 16), (40, 16), (40, 16), (16, 40)))
    out = tiles_forward(rows, weights, 3)
    grad_x, sums = tiles_backward(rows, grad, weights, 3, LayerProducts())
    over = rows.clone()
    assert tiles_forward(over, weights, 3, into=over) is over
    assert torch.equal(over, out)
    over = rows.clone()
    grad_over, sums_over = tiles_backward(over, grad, weights, 3, LayerProducts(), into=over)
    assert grad_over is over
    assert torch.equal(over, grad_x)
    assert all(map(torch.equal, sums_over, sums))
