"""Attention of layers that see a window only, or have a sink beside their keys, in blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tgsbench.systems.score_blocks import queries_at_once
from tgsbench.training.model.cpu_bf16 import to_fp32


class Own(NamedTuple):
    """What a layer's attention has of its own."""

    window: int = 0
    """Tokens that a query sees, itself included; 0: all before."""
    sinks: Tensor | None = None
    """A score for each head [a] that takes part in its softmax and has no value (gpt-oss)."""

    @property
    def is_plain(self) -> bool:
        """Causal attention over everything?"""
        return not self.window and self.sinks is None


PLAIN = Own()


def blockwise(q: Tensor, k: Tensor, v: Tensor, scale: float, own: Own) -> Tensor:
    """q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d].

    Each block of queries meets the keys of its window alone, so that work grows with S · window. The backward
    computes a block's scores again: those of all blocks are 8 GiB a layer for 64 heads at 8k tokens.
    """
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = _Blockwise.apply(*heads_first, own.sinks, scale, own.window)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, scale: float, window: int
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, sinks)
        ctx.scale, ctx.window = scale, window
        out = torch.empty_like(q)
        for block in _blocks(q, window):
            out[:, :, block.queries] = _attended(block.of(q, k, v), sinks, scale, window, block)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, sinks = ctx.saved_tensors
        totals = [torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v)]
        of_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=torch.float32)
        for block in _blocks(q, ctx.window):
            grad = grads[0][:, :, block.queries]
            found = _gradients(block, (q, k, v), sinks, ctx.scale, ctx.window, grad)
            into = block.of(*totals) if of_sinks is None else (*block.of(*totals), of_sinks)
            for total, part in zip(into, found, strict=True):
                total.add_(part)
        grads_of = (total.to(x.dtype) for total, x in zip(totals, (q, k, v), strict=True))
        return *grads_of, None if of_sinks is None else of_sinks.to(sinks.dtype), None, None


class _Block(NamedTuple):
    """Queries, and the keys that one of them sees at least."""

    queries: slice
    keys: slice

    def of(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its part of [B, heads, S, d]."""
        return q[:, :, self.queries], k[:, :, self.keys], v[:, :, self.keys]


def _blocks(q: Tensor, window: int) -> Iterator[_Block]:
    """Blocks of as many queries as have few enough scores, the last ones first.

    Without a window these have most keys: what they free holds the scores of all others, where a CPU's
    allocator took new memory for each longer block (2,048 tokens of 8 heads: 550 MiB for 641).
    """
    length = q.shape[2]
    size = queries_at_once(q.shape[0] * q.shape[1], length, window)
    for start in reversed(range(0, length, size)):
        end = min(start + size, length)
        yield _Block(slice(start, end), slice(max(0, start - window + 1) if window else 0, end))


def _gradients(
    block: _Block,
    inputs: tuple[Tensor, Tensor, Tensor],
    sinks: Tensor | None,
    scale: float,
    window: int,
    grad: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of a block's queries, keys and values, and of the sinks where there are some."""
    with torch.enable_grad():
        parts = [x.detach().requires_grad_() for x in block.of(*inputs)]
        own_sinks = None if sinks is None else sinks.detach().requires_grad_()
        q, k, v = parts
        out = _attended((q, k, v), own_sinks, scale, window, block)
        wanted = parts if own_sinks is None else [*parts, own_sinks]
        return torch.autograd.grad(out, wanted, grad.to(out.dtype))


def _attended(
    inputs: tuple[Tensor, Tensor, Tensor], sinks: Tensor | None, scale: float, window: int, block: _Block
) -> Tensor:
    """One block's output, in fp32: [B, a, queries, d]; the queries of a KV head are one product's rows."""
    q, keys, values = (to_fp32(x).float() for x in inputs)
    shape = (q.shape[0], keys.shape[1], -1)
    scores = q.reshape(*shape, q.shape[3]) @ keys.transpose(2, 3) * scale
    scores = scores.view(*q.shape[:3], -1).masked_fill(~_sees(window, block, q.device), -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], dim=3)
    chances = torch.softmax(scores, dim=3)[..., : keys.shape[2]]
    return (chances.reshape(*shape, keys.shape[2]) @ values).view(*q.shape[:3], -1)


def _sees(window: int, block: _Block, device: torch.device) -> Tensor:
    """Which of its keys each query of a block may see, bool [queries, keys]."""
    query = torch.arange(block.queries.start, block.queries.stop, device=device).unsqueeze(1)
    key = torch.arange(block.keys.start, block.keys.stop, device=device).unsqueeze(0)
    causal = key <= query
    return causal & (key > query - window) if window else causal
