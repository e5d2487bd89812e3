"""Matrix products on CPUs in a wider type than their operands'.

bf16 without bf16 instructions: the same operands, multiplied in fp32.

oneDNN has bf16 kernels for AVX-512 and newer only; below, PyTorch falls back to loops that reach 1 to 17
GFLOPs where its fp32 product reaches 90 (Zen 3, one thread). bf16 values are exact in fp32 and sums were kept
in fp32 anyway, so only the speed changes, and a rounding or two is saved.

fp32 where `verify` asks for it: sums of some hundred products in fp32 are off by 4e-7, and a gradient in
which several of them cancel by 2.3e-6 (queries' norm of qwen3_8b). In fp64 what is left is the program's own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional


@functools.cache
def _has_bf16_products() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lacks_bf16(x: Tensor) -> bool:
    """Would products of this tensor run in PyTorch's fallback? Fake tensors stand for a GPU's."""
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and not isinstance(x, FakeTensor)
        and not _has_bf16_products()
    )


def to_fp32(x: Tensor) -> Tensor:
    """`x` in fp32 where its products would be slow, else `x` itself."""
    return x.float() if lacks_bf16(x) else x


_exact = False
"""Are fp32 operands multiplied in fp64?"""


def multiply_exactly() -> None:
    """Multiply fp32 operands on CPUs in fp64, in this process and its forks: for `verify` alone."""
    global _exact
    _exact = True


def wider(x: Tensor) -> torch.dtype | None:
    """The type that products of this tensor are taken in, where it is not its own."""
    if _exact and x.dtype == torch.float32 and x.device.type == "cpu":
        return torch.float64
    return torch.float32 if lacks_bf16(x) else None


def widened(x: Tensor) -> Tensor:
    """`x` in the type that its products are taken in."""
    wide = wider(x)
    return x if wide is None else x.to(wide)


class Fp32Linear(nn.Linear):
    """A linear layer that multiplies in a wider type where `wider` says so; saved and returned are narrow."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if wider(x) != torch.float64:
            return linear(x, self.weight) if self.bias is None else super().forward(x)
        made = linear(x, self.weight)
        return made if self.bias is None else made + self.bias


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ in the dtype of x; x [..., in], weight [out, in]."""
    if wider(x) is not None:
        return _WideLinear.apply(x, weight)  # type: ignore[no-any-return, no-untyped-call]
    return functional.linear(x, weight)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        wide = wider(x)
        return functional.linear(x.to(wide), weight.to(wide)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        wide = wider(x)
        grad = grads[0].to(wide)
        grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2).to(wide)
        return (grad @ weight.to(wide)).to(x.dtype), grad_weight.to(weight.dtype)


def product(a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
    """a · b outside autograd, in the dtype of a; a [m, k], b [k, n] -> [m, n], written to `into` if given."""
    if (wide := wider(a)) is not None:
        made = a.to(wide) @ b.to(wide)
        return made.to(a.dtype) if into is None else into.copy_(made)
    return torch.mm(a, b) if into is None else torch.mm(a, b, out=into)


def biased_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """a · b + bias in the dtype of a; a [m, k], b [k, n], bias [n] -> [m, n], rounded once."""
    if (wide := wider(a)) is not None:
        return torch.addmm(bias.to(wide), a.to(wide), b.to(wide)).to(a.dtype)
    return torch.addmm(bias, a, b)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a · b in place; the product is not rounded before the sum."""
    wide = wider(a)
    return total.addmm_(a, b) if wide is None else total.add_(a.to(wide) @ b.to(wide))
