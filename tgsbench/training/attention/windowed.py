"""Attention of layers that see a window only, or have a sink beside their keys, in blocks of queries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tgsbench.training.model.cpu_bf16 import to_fp32

_BLOCK = 512
"""Queries whose scores exist at once."""


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

    Each block of queries meets the keys of its window alone, so that work and memory grow with S · window.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    length, dtype = q.shape[2], q.dtype
    size = min(_BLOCK, max(own.window, 64)) if own.window else _BLOCK
    blocks = [
        _block(q, k, v, scale, own, start, min(start + size, length)) for start in range(0, length, size)
    ]
    return torch.cat(blocks, dim=2).transpose(1, 2).to(dtype)


def _block(q: Tensor, k: Tensor, v: Tensor, scale: float, own: Own, start: int, end: int) -> Tensor:
    """Queries start to end, in fp32: [B, a, end - start, d]."""
    first = max(0, start - own.window + 1) if own.window else 0
    group = q.shape[1] // k.shape[1]
    keys, values = (to_fp32(x[:, :, first:end]).repeat_interleave(group, dim=1) for x in (k, v))
    scores = to_fp32(q[:, :, start:end]).float() @ keys.float().transpose(2, 3) * scale
    scores = scores.masked_fill(~_sees(own.window, start, end, first, q.device), -torch.inf)
    if own.sinks is not None:
        sink = own.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], dim=3)
    chances = torch.softmax(scores, dim=3)[..., : end - first]
    return chances @ values.float()


def _sees(window: int, start: int, end: int, first: int, device: torch.device) -> Tensor:
    """Which keys first to end a query start to end may see, bool [end - start, end - first]."""
    query = torch.arange(start, end, device=device).unsqueeze(1)
    key = torch.arange(first, end, device=device).unsqueeze(0)
    causal = key <= query
    return causal & (key > query - window) if window else causal
