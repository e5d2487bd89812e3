"""Linear layers whose products run in FP8, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tgsbench.training.model.products import LayerProducts


class Fp8Linear(nn.Linear):
    """A linear layer of FP8 operands; its input and weight are kept as they are, and rounded again."""

    products: LayerProducts

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        out: Tensor = _Fp8Linear.apply(x, self.weight, self.products)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, products: LayerProducts) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.products = products
        return products.of_inputs.product(x.flatten(0, -2), weight.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_gradients, grad = ctx.products.of_gradients, grads[0].flatten(0, -2)
        grad_weight = of_gradients.product(grad.t(), x.flatten(0, -2))
        return of_gradients.product(grad, weight).view_as(x), grad_weight, None


def use_products(layer: nn.Module, products: LayerProducts) -> None:
    """Make every linear layer below a decoder layer multiply so, its tiled MLP too; parameters stay."""
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Fp8Linear
        if isinstance(module, nn.Linear) or hasattr(module, "tile_tokens"):
            object.__setattr__(module, "products", products)
