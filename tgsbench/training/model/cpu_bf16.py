"""bf16 matrix products on CPUs without bf16 instructions: the same operands, multiplied in fp32.

oneDNN has bf16 kernels for AVX-512 and newer only; below, PyTorch falls back to loops that reach 1 to 17
GFLOPs where its fp32 product reaches 90 (Zen 3, one thread). bf16 values are exact in fp32 and sums were kept
in fp32 anyway, so only the speed changes, and a rounding or two is saved.
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


class Fp32Linear(nn.Linear):
    """A linear layer that multiplies in fp32 where bf16 products are slow; saved and returned are bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return linear(x, self.weight) if self.bias is None else super().forward(x)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ in the dtype of x; x [..., in], weight [out, in]."""
    if lacks_bf16(x):
        return _WideLinear.apply(x, weight)  # type: ignore[no-any-return, no-untyped-call]
    return functional.linear(x, weight)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x.float(), weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0].float()
        grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2).float()
        return (grad @ weight.float()).to(x.dtype), grad_weight.to(weight.dtype)


def product(a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
    """a · b outside autograd, in the dtype of a; a [m, k], b [k, n] -> [m, n], written to `into` if given."""
    if lacks_bf16(a):
        wide = a.float() @ b.float()
        return wide.to(a.dtype) if into is None else into.copy_(wide)
    return torch.mm(a, b) if into is None else torch.mm(a, b, out=into)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a · b in place; the product is not rounded before the sum."""
    return total.add_(a.float() @ b.float()) if lacks_bf16(a) else total.addmm_(a, b)
