"""Attention of one block of queries on one block of keys, with its log-sum-exp, forward and backward.

Layouts: q [T, a, d], k and v [U, m, d] with m dividing a, out [T, a, d], lse fp32 [a, T]. Either causal
inside each document (then T = U), or every query sees every key; `left` bounds both: the last query sees so
many keys before the last one, those before it as many places earlier. The backward takes the output and the
log-sum-exp of *all* keys of a query, and gives this block's share of the gradients, exactly for any cut of
the keys (FlashAttention-2: Dao 2023, §3.1.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.model.cpu_bf16 import widened

Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]


class BlockKernel(Protocol):
    """One way to compute a block."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Pair:
        """Output and log-sum-exp; causal inside `docs`, or over every key where they are None."""
        ...

    def backward(
        self, grad: Tensor, saved: Saved, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Triple:
        """Gradients of q [T, a, d], k and v [U, m, d]."""
        ...


class Saved(NamedTuple):
    """What a block's backward reads."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor


class CpuBlocks:
    """torch's flash kernel for CPUs, document by document."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Pair:
        """See `BlockKernel`."""
        if docs is None:
            return _cpu_forward(q, k, v, scale, False, left)
        parts = [_cpu_forward(q[part], k[part], v[part], scale, True, left) for part in _parts(docs)]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)

    def backward(
        self, grad: Tensor, saved: Saved, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Triple:
        """See `BlockKernel`."""
        if docs is None:
            return _cpu_backward(grad, saved, scale, False, left)
        parts = [_cpu_backward(grad[part], _of(saved, part), scale, True, left) for part in _parts(docs)]
        grad_q, grad_k, grad_v = (torch.cat(grads) for grads in zip(*parts, strict=True))
        return grad_q, grad_k, grad_v


def _parts(docs: PackDocuments) -> list[slice]:
    return [slice(begin, end) for begin, end in itertools.pairwise(docs.on_host.tolist()) if end > begin]


def _of(saved: Saved, part: slice) -> Saved:
    q, k, v, out, lse = saved
    return Saved(q[part], k[part], v[part], out[part], lse[:, part])


def _heads_first(x: Tensor, num_heads: int) -> Tensor:
    """[T, m, d] -> [1, a, T, d]: the kernel knows no groups."""
    return widened(x).repeat_interleave(num_heads // x.shape[1], dim=1).transpose(0, 1).unsqueeze(0)


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, left: int) -> Pair:
    heads = q.shape[1]
    inputs = [_heads_first(x, heads) for x in (q, k, v)]
    mask = _band(len(q), len(k), causal, left, inputs[0].dtype)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *inputs, 0.0, causal and mask is None, attn_mask=mask, scale=scale
    )
    return out.squeeze(0).transpose(0, 1).to(q.dtype), _rows(lse, heads)


def _band(num_queries: int, num_keys: int, causal: bool, left: int, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores [T, U]: 0 where a query sees a key, else minus infinity; None: no bound."""
    if left < 0:
        return None
    query = torch.arange(num_queries).unsqueeze(1) + num_keys - num_queries
    key = torch.arange(num_keys)
    hidden = (key < query - left) | (key > query) if causal else key < query - left
    return torch.zeros(num_queries, num_keys, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _rows(lse: Tensor, heads: int) -> Tensor:
    """The kernel lays [1, a, T] out by query."""
    return lse.reshape(heads, -1).float()


def _cpu_backward(grad: Tensor, saved: Saved, scale: float, causal: bool, left: int) -> Triple:
    q, k, v, out, lse = saved
    heads, kv_heads = q.shape[1], k.shape[1]
    grad, q, k, v, out = (_heads_first(x, heads) for x in (grad, q, k, v, out))
    mask = _band(q.shape[2], k.shape[2], causal, left, q.dtype)
    # In fp32 beside bf16 operands, which a CPU with bf16 instructions is given as they are.
    lse = lse.unsqueeze(0).to(torch.promote_types(q.dtype, torch.float32))
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal and mask is None, attn_mask=mask, scale=scale
    )
    grad_q, grad_k, grad_v = (x.squeeze(0).transpose(0, 1) for x in grads)
    return grad_q, _grouped(grad_k, kv_heads), _grouped(grad_v, kv_heads)


def _grouped(x: Tensor, num_heads: int) -> Tensor:
    """[U, a, d] -> [U, m, d]: a KV head's gradient is the sum over its queries' heads."""
    grouped: Tensor = x.unflatten(1, (num_heads, -1)).sum(dim=2)
    return grouped


class CudaBlocks:
    """torch's own flash attention (aten), which takes grouped heads and lengths by document."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Pair:
        """See `BlockKernel`."""
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, *_lengths(q, k, docs), 0.0, docs is not None, False, scale=scale, **_window(left)
        )
        return out, lse

    def backward(
        self, grad: Tensor, saved: Saved, scale: float, docs: PackDocuments | None, left: int = -1
    ) -> Triple:
        """See `BlockKernel`."""
        q, k, v, out, lse = saved
        # Read for dropout alone, of which there is none.
        seed, offset = q.new_zeros(2, dtype=torch.uint64), q.new_empty(0)
        grads: Triple = torch.ops.aten._flash_attention_backward(
            grad.contiguous(), q, k, v, out, lse.contiguous(), *_lengths(q, k, docs), 0.0, docs is not None,
            seed, offset, scale=scale, **_window(left),
        )  # fmt: skip
        return grads


def _window(left: int) -> dict[str, int]:
    """The kernel counts from the last query and the last key, as `left` does."""
    return {"window_size_left": left} if left >= 0 else {}


def _lengths(q: Tensor, k: Tensor, docs: PackDocuments | None) -> tuple[Tensor, Tensor, int, int]:
    """Borders of queries and of keys, and the longest of each."""
    if docs is not None:
        return docs.cu_seqlens, docs.cu_seqlens, docs.max_len, docs.max_len
    of_q, of_k = (torch.arange(0, 2 * len(x), len(x), dtype=torch.int32, device=x.device) for x in (q, k))
    return of_q, of_k, len(q), len(k)


BLOCK_KERNELS: dict[str, Callable[[], BlockKernel]] = {"cpu": CpuBlocks, "cuda": CudaBlocks}
"""By device."""
