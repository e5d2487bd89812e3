"""A whole layer computes what transformers' own does: its output, and gradients of input and weights."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from tests.unit.family_shapes import TRAINED, read
from tests.unit.stored import a_preset
from tgsbench.launch import verify
from tgsbench.models.registry import find_family
from tgsbench.systems.whole_layers import FAMILIES, runs_whole_layers
from tgsbench.training.attention import kernels
from tgsbench.training.attention.attention import NAME, UlyssesAttention
from tgsbench.training.model.build import build, draw
from tgsbench.training.model.layer_weights import parts_of
from tgsbench.training.model.products import LayerProducts
from tgsbench.training.model.whole_layer import LayerOptions, WholeLayer
from tgsbench.training.parallel.checkpointing import wrap_layer

CPU = torch.device("cpu")
TOKENS = 96
"""More than the window of a small shape, 48."""


def shape_of(family: str, **changes):
    preset = a_preset("llama3_8b_8k")
    return replace(verify.small_preset(replace(preset, model=read(TRAINED[family]).shape)).model, **changes)


def models(shape) -> tuple[nn.Module, UlyssesAttention]:
    """A model whose every parameter is drawn, norms around 1, and what its layers attend by."""
    attention = UlyssesAttention(kernels.choose("sdpa", CPU, False), None)
    attention.register()
    model = build(shape, TOKENS, NAME, 0)
    model.restore_buffers(CPU)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = float(name.endswith("norm.weight"))
            parameter.copy_(draw(name, parameter.shape, 3, CPU) * 4 + around)
    return model, attention


def whole(layer: nn.Module, config, attention, window: int, mode: str, tiled: bool) -> WholeLayer:
    made = WholeLayer(layer, LayerOptions(config, attention, tiled, LayerProducts()), window)
    weights = dict(layer.named_parameters())
    made.flat = nn.Parameter(torch.cat([weights[name].detach().flatten() for name in made.names.values()]))
    return wrap_layer(made, mode)


def outcome(layer: nn.Module, x: torch.Tensor, positions) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x, position_embeddings=positions)
    out.backward(torch.linspace(-1, 1, out.numel()).sin().view_as(out))
    return out.detach(), x.grad


SHAPES = {family: shape_of(family) for family in sorted(FAMILIES)}
SHAPES |= {
    f"{family}, biased": shape_of(family, attention_bias=True) for family in ("llama", "qwen3", "smollm3")
}
WAYS = (("none", False), ("selective", False), ("full", False), ("full", True))


@pytest.mark.parametrize(("mode", "tiled"), WAYS)
@pytest.mark.parametrize("name", SHAPES)
def test_it_computes_what_the_layer_of_transformers_does(name, mode, tiled):
    shape = SHAPES[name]
    model, attention = models(shape)
    decoder = model.model
    x = torch.randn(1, TOKENS, shape.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = decoder.rotary_emb(x, torch.arange(TOKENS).unsqueeze(0))
    windows = find_family(shape.family).ring_windows(shape)
    for layer, window in zip(decoder.layers, windows, strict=True):
        ours = whole(layer, decoder.config, attention, window, mode, tiled)
        right, grad = outcome(layer, x, positions)
        out, grad_x = outcome(ours, x, positions)
        torch.testing.assert_close(out, right, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad_x, grad, rtol=1e-4, atol=1e-5)
        of_layer = dict(layer.named_parameters())
        for part, got in ours.parts(ours.flat.grad):
            error = (got - of_layer[part].grad).norm() / of_layer[part].grad.norm()
            assert error < 3e-6 or _is_zero(part, ours), f"{part}: relative error {error:.1e}"


def _is_zero(part: str, layer: WholeLayer) -> bool:
    """Without positions a bias of all keys shifts every score of a query alike: its gradient is rounding."""
    return part == "self_attn.k_proj.bias" and not layer.has_rope


@pytest.mark.parametrize("family", sorted(set(TRAINED) - FAMILIES))
def test_layers_that_have_something_else_are_left_to_autograd(family):
    preset = replace(a_preset("llama3_8b_8k"), model=read(TRAINED[family]).shape)
    assert not runs_whole_layers(preset)


def test_a_parameter_that_nobody_knows_is_no_whole_layers():
    layer = models(SHAPES["qwen3"])[0].model.layers[0]
    names = {name for name, _ in layer.named_parameters()}
    assert list(parts_of(names).values())[-2:] == ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    with pytest.raises(AssertionError, match="sinks"):
        parts_of({*names, "self_attn.sinks"})
