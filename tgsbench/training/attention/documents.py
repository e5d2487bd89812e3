"""Document boundaries of one pack, prepared once per micro-step for every layer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """Documents of similar length, right-padded to one length.

    Under a causal mask a real token never sees padding to its right, so no mask tensor is needed.
    """

    index: Tensor
    """[n, L] position in the pack of every token; padding points at the last real token."""
    rows: Tensor
    """Flat indices into [n · L] of the real tokens."""
    positions: Tensor
    """Positions in the pack of the same tokens, in the same order."""


@dataclass(frozen=True)
class PackDocuments:
    """Boundaries of one pack on the device."""

    cu_seqlens: Tensor
    """int32 [n + 1]: where each document begins, and the pack's length."""
    max_len: int
    attended_len: float
    """Σ len² / Σ len: the length that attention really sees per token."""
    on_host: Tensor
    """`cu_seqlens` in host memory."""
    _buckets: list[Bucket] = field(default_factory=list)

    @property
    def buckets(self) -> list[Bucket]:
        """Documents grouped by length, for kernels without a varlen form; made at first use."""
        if not self._buckets:
            self._buckets.extend(_bucketed(self.cu_seqlens))
        return self._buckets


def documents(cu_seqlens: Tensor, device: torch.device) -> PackDocuments:
    """Describe a pack's documents from their boundaries (int32 [n + 1], on the host)."""
    lengths = cu_seqlens.diff().double()
    attended_len = float((lengths**2).sum() / lengths.sum())
    return PackDocuments(cu_seqlens.to(device, torch.int32), int(lengths.max()), attended_len, cu_seqlens)


def _padded(length: int) -> int:
    """Round up in steps of a quarter of the next lower power of two, at least 32: ≤ 25 % padding."""
    step = max(32, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


def _bucketed(cu_seqlens: Tensor) -> list[Bucket]:
    bounds = cu_seqlens.tolist()
    by_length: dict[int, list[tuple[int, int]]] = {}
    for start, end in itertools.pairwise(bounds):
        if end > start:
            by_length.setdefault(_padded(end - start), []).append((start, end))
    return [_bucket(spans, width, cu_seqlens.device) for width, spans in sorted(by_length.items())]


def _bucket(spans: list[tuple[int, int]], width: int, device: torch.device) -> Bucket:
    starts = torch.tensor([s for s, _ in spans]).unsqueeze(1)
    ends = torch.tensor([e for _, e in spans]).unsqueeze(1)
    index = starts + torch.arange(width)
    real = index < ends
    index = torch.minimum(index, ends - 1)
    return Bucket(index.to(device), real.flatten().nonzero().squeeze(1).to(device), index[real].to(device))
