"""Attention written out in fp32 or fp64, to hold kernels against."""

from __future__ import annotations

import torch
from torch import Tensor

from tgsbench.training.attention.documents import PackDocuments


def plain(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None) -> Tensor:
    """q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d]; causal, inside documents if there are any."""
    group, seq = q.shape[2] // k.shape[2], q.shape[1]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bqad,bkad->baqk", q, k) * scale
    allowed = torch.ones(seq, seq, dtype=torch.bool, device=q.device).tril()
    if docs is not None:
        number = torch.bucketize(torch.arange(seq, device=q.device), docs.cu_seqlens[1:], right=True)
        allowed &= number[:, None] == number[None, :]
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("baqk,bkad->bqad", weights, v)


def with_gradients(
    run, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, docs: PackDocuments | None
) -> list[Tensor]:
    """Output and the three input gradients of one call."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = run(*leaves, q.shape[-1] ** -0.5, docs)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def draw(batch: int, seq: int, heads: int, kv_heads: int, dim: int, device: str = "cpu") -> list[Tensor]:
    """q, k, v and the output's gradient in fp32."""
    generator = torch.Generator(device).manual_seed(0)
    counts = (heads, kv_heads, kv_heads, heads)
    return [torch.randn(batch, seq, n, dim, generator=generator, device=device) for n in counts]
