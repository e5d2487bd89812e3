"""Sinks: scores that take part in a head's softmax and have no value (gpt-oss), beside any block kernel.

A kernel that knows no sinks gives output and log-sum-exp of the keys; a sink then joins the log-sum-exp and
takes its share of the output. The backward of FlashAttention reads both and forms every chance from the
log-sum-exp, so that with the sink in it the gradients of q, k and v are exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tgsbench.training.attention.blocks import BLOCK_KERNELS, Saved
from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.attention.windowed import Own


def flash_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own
) -> Tensor:
    """q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d], with the sinks and the window of `own`."""
    docs = docs or _rows(q)
    flat = (x.flatten(0, 1) for x in (q, k, v))
    out: Tensor = _SinkAttention.apply(*flat, own.sinks, scale, docs, own.window - 1)  # type: ignore[no-untyped-call]
    return out.view_as(q)


def _rows(q: Tensor) -> PackDocuments:
    """Every row of the batch as one document; made on both sides, for a copy would wait for the device."""
    batch, length = q.shape[:2]
    here, there = (
        torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device)
        for device in (torch.device("cpu"), q.device)
    )
    return PackDocuments(there, length, float(length), here)


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor,
        scale: float,
        docs: PackDocuments,
        left: int,
    ) -> Tensor:
        out, lse = BLOCK_KERNELS[q.device.type]().forward(q, k, v, scale, docs, left)
        out, lse = with_sinks(out, lse, sinks)
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.scale, ctx.docs, ctx.left = scale, docs, left
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *rest, sinks = ctx.saved_tensors
        saved, grad = Saved(*rest), grads[0].contiguous()
        kernel = BLOCK_KERNELS[grad.device.type]()
        found = kernel.backward(grad, saved, ctx.scale, ctx.docs, ctx.left)
        return *found, sink_gradients(grad, saved, sinks), None, None, None


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """Output [T, a, d] and log-sum-exp [a, T] with the sinks [a] in them.

    New tensors: those that a kernel gave may be kept by a selective checkpoint, and come again.
    """
    total = torch.logaddexp(lse, sinks.float().unsqueeze(1))
    return torch.mul(out, share_of(lse - total), out=torch.empty_like(out)), total


def sink_gradients(grad: Tensor, saved: Saved, sinks: Tensor) -> Tensor:
    """Gradients of the sinks [a], whose share of a softmax brings no value: minus share · (dO · O)."""
    share = (sinks.float().unsqueeze(1) - saved.lse).exp()
    along = grad.to(torch.float32, copy=True).mul_(saved.out).sum(2)
    return -(share * along.t()).sum(1).to(sinks.dtype)


def share_of(log_share: Tensor) -> Tensor:
    """[a, T] -> [T, a, 1]."""
    return log_share.exp().t().unsqueeze(2)
