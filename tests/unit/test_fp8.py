"""FP8 operands: scales, rounding, products and their gradients, against plain arithmetic written apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tgsbench.training.model.fp8 import cast_to_fp8, fused, quantised, scale_bits, swizzled
from tgsbench.training.model.fp8_linear import Fp8Linear, use_products
from tgsbench.training.model.fused_layers import TiledMLP
from tgsbench.training.model.products import PLAIN, fp8_products

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
RECIPES = ("rowwise", "tensorwise", "mxfp8")


def plain_scale(largest: float, limit: float) -> float:
    """The least power of two by which `largest` is divided to come to `limit` at most."""
    scale = 2.0**-126
    while largest / scale > limit:
        scale *= 2
    return scale


@pytest.mark.parametrize(("kind", "limit"), [(E4M3, 448.0), (E5M2, 57344.0)])
def test_a_scale_is_the_least_power_of_two_that_brings_values_into_range(
    kind: torch.dtype, limit: float
) -> None:
    edges = [limit, math.nextafter(limit, 0), limit * 1.0001, limit * 0.9999, 1.0, 3e-5, 1e20, 1.75, 1e-38]
    found = scale_bits(torch.tensor(edges), kind).view(torch.float32).tolist()
    as_fp32 = torch.tensor(edges).tolist()
    assert found == [plain_scale(largest, limit) for largest in as_fp32]


def test_zeros_stay_zeros_and_what_is_not_finite_shows() -> None:
    x = torch.zeros(3, 32)
    x[1, 3], x[2, 5] = math.nan, math.inf
    values = quantised(x, "rowwise", E4M3)
    restored = values.matrix.float() * values.scales
    assert not restored[0].any()
    assert restored[1].isnan().any()
    assert not restored[2].isfinite().all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_operand_is_rounded_once_whatever_its_strides(recipe: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(64, 48, generator=generator) * torch.logspace(-4, 3, 48)).to(dtype).t()
    groups = {
        "rowwise": [x[i : i + 1] for i in range(48)],
        "tensorwise": [x],
        "mxfp8": [x[i : i + 1, j : j + 32] for i in range(48) for j in (0, 32)],
    }[recipe]
    right = []
    for group in groups:
        scale = plain_scale(float(group.float().abs().max()), 448.0)
        right.append((group.double() / scale).float().to(E4M3).double().mul(scale).flatten())
    found = quantised(x, recipe, E4M3)
    scales = found.scales.unsqueeze(-1) if recipe == "mxfp8" else found.scales
    restored = (found.values.double() * scales).flatten()
    assert torch.equal(restored, torch.cat(right))


def test_scales_of_blocks_lie_as_tensor_cores_read_them() -> None:
    """cuBLAS: exponent of (row, column) at (r % 32)·16 + (r // 32 % 4)·4 + c % 4 of its tile of 128 x 4."""
    rows, columns = 160, 6
    exponents = torch.arange(rows * columns).view(rows, columns) % 250 + 1
    laid = swizzled((exponents << 23).int())
    tiles_wide = 2
    for row in range(rows):
        for column in range(columns):
            tile = row // 128 * tiles_wide + column // 4
            at = tile * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 4
            assert laid[at] == exponents[row, column]
    assert laid.numel() == 2 * tiles_wide * 512


@pytest.mark.parametrize("recipe", RECIPES)
def test_compiled_casts_give_every_bit_of_the_eager_ones(recipe: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = (torch.randn(96, 64, generator=generator) * torch.logspace(-6, 3, 64)).bfloat16()
    for operand in (x, x.t(), x[:, 32:]):
        compiled, eager = fused(cast_to_fp8)(operand, recipe, E4M3), cast_to_fp8(operand, recipe, E4M3)
        for one, other in zip(compiled, eager, strict=True):
            assert one.stride() == other.stride()
            assert torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    bits = eager[1].reshape(96, -1) if eager[1].dim() else eager[1].expand(96, 4).contiguous()
    assert torch.equal(fused(swizzled)(bits), swizzled(bits))


def restored(x: torch.Tensor, recipe: str, kind: torch.dtype) -> torch.Tensor:
    found = quantised(x, recipe, kind)
    scales = found.scales.unsqueeze(-1) if recipe == "mxfp8" else found.scales
    return (found.values.double() * scales).flatten(1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_linear_layer_multiplies_rounded_operands_forward_and_backward(recipe: str) -> None:
    torch.manual_seed(2)
    layer = nn.Linear(64, 96, bias=recipe == "rowwise")
    use_products(layer, fp8_products(recipe))
    assert type(layer) is Fp8Linear
    x = torch.randn(2, 32, 64, requires_grad=True)
    grad = torch.randn(2, 32, 96)
    out = layer(x)
    out.backward(grad)
    rows, grads, weight = x.detach().flatten(0, 1), grad.flatten(0, 1), layer.weight.detach()
    of_gradients = E5M2 if recipe == "tensorwise" else E4M3
    forward = restored(rows, recipe, E4M3) @ restored(weight, recipe, E4M3).t()
    exact = rows.double() @ weight.double().t()
    assert 1e-3 < float((forward - exact).norm() / exact.norm()) < 0.1
    if layer.bias is not None:
        forward += layer.bias.detach().double()
        torch.testing.assert_close(layer.bias.grad, grads.sum(0))
    to_x = restored(grads, recipe, of_gradients) @ restored(weight.t(), recipe, E4M3).t()
    to_weight = restored(grads.t(), recipe, of_gradients) @ restored(rows.t(), recipe, E4M3).t()
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out.detach().flatten(0, 1).double(), forward, **close)
    assert x.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x.grad.flatten(0, 1).double(), to_x, **close)
    torch.testing.assert_close(layer.weight.grad.double(), to_weight, **close)


class Mlp(TiledMLP):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(32, 64, bias=False), nn.Linear(32, 64, bias=False)
        self.down_proj = nn.Linear(64, 32, bias=False)


@pytest.mark.parametrize("recipe", ["rowwise", "mxfp8"])
def test_a_tiled_mlp_multiplies_in_fp8_too(recipe: str) -> None:
    torch.manual_seed(3)
    x = torch.randn(1, 64, 32)
    mlp = Mlp().requires_grad_(False)
    plain = mlp(x)
    use_products(mlp, fp8_products(recipe))
    products = fp8_products(recipe).of_inputs
    gate, up = (products.product(x[0], layer.weight.t()) for layer in (mlp.gate_proj, mlp.up_proj))
    right = products.product(nn.functional.silu(gate) * up, mlp.down_proj.weight.t())
    assert torch.equal(mlp(x)[0], right)
    assert not torch.equal(mlp(x), plain)


def test_plain_products_prepare_nothing() -> None:
    x = torch.randn(4, 4)
    assert PLAIN.left(x) is x
