"""The norm of every query's or every key's head before RoPE, in one pass of a whole layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tgsbench.training.model import fused_layers


class BeforeNorm(NamedTuple):
    """Heads [B, s, n, d] as they were projected, and their 1/rms [B, s, n, 1]."""

    heads: Tensor
    inverse: Tensor


class HeadNorm:
    """One weight [d] for all heads; parts of the heads come one after the other.

    Kernels of norms read rows that lie one behind the other: keys beside values are copied once.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps
        self.kept: list[BeforeNorm] = []
        """What the backward needs, part by part."""
        self._gradients: list[Tensor] = []

    def forward(self, heads: Tensor, keep: bool) -> Tensor:
        """A part's heads [B, s, n, d], normed."""
        heads = heads.contiguous()
        normed, inverse = fused_layers.norm_forward(heads, self._weight, self._eps)
        if keep:
            self.kept.append(BeforeNorm(heads, inverse))
        return normed

    def again(self, heads: Tensor) -> BeforeNorm:
        """What a part's backward needs, where it was not kept."""
        return BeforeNorm(heads, fused_layers.norm_forward(heads, self._weight, self._eps)[1])

    def backward(self, grad: Tensor, before: BeforeNorm) -> Tensor:
        """A part's gradient [B, s, n, d] before the norm; that of the weight is added up."""
        grad_heads, of_weight = fused_layers.norm_backward(
            grad.reshape(before.heads.shape).contiguous(), before.heads, before.inverse, self._weight
        )
        self._gradients.append(of_weight)
        return grad_heads

    def weight_gradient(self) -> Tensor:
        """The weight's gradient [d] by all parts."""
        first, *others = self._gradients
        for part in others:
            first.add_(part)
        return first
