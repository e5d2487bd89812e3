"""SwiGLU MLP over tiles of the sequence (the idea of ALST's TiledMLP, arXiv 2506.13996)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tgsbench.training.model.products import PLAIN, LayerProducts, Products

TILE_TOKENS = 8192
"""Tokens a tile holds: 8B shapes need 0.9 GiB for a tile's gate, up and their gradients in bf16, and its
matrix products are large enough to run at full speed."""


def tiled_mlp(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    tile_tokens: int,
    products: LayerProducts | None = None,
) -> Tensor:
    """down(silu(gate(x)) · up(x)), tile by tile; x [..., s, h], weights [i, h], [i, h], [h, i].

    Only x is kept for the backward, which computes gate and up of a tile again: at 1M tokens of Llama3.2-1B
    the untiled MLP holds five [s, i] tensors of 16 GiB each. Weight gradients are summed in fp32.
    """
    out: Tensor = _TiledMLP.apply(x, w_gate, w_up, w_down, tile_tokens, products or LayerProducts())  # type: ignore[no-untyped-call]
    return out


class _TiledMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_gate: Tensor,
        w_up: Tensor,
        w_down: Tensor,
        tile_tokens: int,
        products: LayerProducts,
    ) -> Tensor:
        ctx.save_for_backward(x, w_gate, w_up, w_down)
        ctx.tile_tokens, ctx.products = tile_tokens, products
        weights = w_gate, w_up, w_down
        return tiles_forward(x.flatten(0, -2), weights, tile_tokens, products.of_inputs).view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *weights = ctx.saved_tensors
        rows, grad_out = x.flatten(0, -2), grads[0].flatten(0, -2)
        grad_x, sums = tiles_backward(rows, grad_out, weights, ctx.tile_tokens, ctx.products)
        cast = (total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True))
        return grad_x.view_as(x), *cast, None, None


def tiles_forward(
    rows: Tensor,
    weights: Sequence[Tensor],
    tile_tokens: int,
    products: Products = PLAIN,
    into: Tensor | None = None,
) -> Tensor:
    """The MLP of rows [T, h] outside autograd, written to `into`, which may be the rows themselves."""
    w_gate, w_up, w_down = weights
    out = torch.empty_like(rows) if into is None else into
    for tile, into in zip(rows.split(tile_tokens), out.split(tile_tokens), strict=True):
        given = products.left(tile)
        gate, up = products.product(given, w_gate.t()), products.product(given, w_up.t())
        products.product(functional.silu(gate).mul_(up), w_down.t(), into)
    return out


def tiles_backward(
    rows: Tensor,
    grad_out: Tensor,
    weights: Sequence[Tensor],
    tile_tokens: int,
    products: LayerProducts,
    into: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Gradient of the rows [T, h], and the fp32 sums of those of the three weights.

    `into` may be the rows themselves: of a tile everything is read before its gradient is written.
    """
    grad_x = torch.empty_like(rows) if into is None else into
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    tiles = (tensor.split(tile_tokens) for tensor in (rows, grad_out, grad_x))
    for tile, grad, into in zip(*tiles, strict=True):
        _tile_backward(tile, grad, into, weights, sums, products)
    return grad_x, sums


def _tile_backward(
    x: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    weights: Sequence[Tensor],
    sums: list[Tensor],
    products: LayerProducts,
) -> None:
    """Gradients of one tile: written to grad_x, added to the fp32 sums of the three weights."""
    w_gate, w_up, w_down = weights
    given, of_inputs, of_gradients = products.of_inputs.left(x), products.of_inputs, products.of_gradients
    gate, up = of_inputs.product(given, w_gate.t()), of_inputs.product(given, w_up.t())
    silu = functional.silu(gate)
    sums[2].add_(of_gradients.product(grad.t(), silu * up))
    grad_product = of_gradients.product(grad, w_down)
    grad_up = silu.mul_(grad_product)
    grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
    sums[0].add_(of_gradients.product(grad_gate.t(), x))
    sums[1].add_(of_gradients.product(grad_up.t(), x))
    of_gradients.product(grad_gate, w_gate, grad_x)
    of_gradients.add_product(grad_x, grad_up, w_up)
