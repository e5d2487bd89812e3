"""Ulysses sequence parallelism with q, k and v in one all-to-all.

Layouts, letters as in facts of the field: B batch, S whole sequence, s = S/sp local tokens, a query
heads, n KV heads, d head dim (e that of values, if latent attention has another), p = sp. The send buffer
is [p, B, s, w] with w = (a·d + max(n, p)·(d + e))/p, so that with B = 1 the received buffer *is* [S, w]: q, k
and v are views of it and no copy follows the collective. XTuner sends 4h per token on Llama2-70B where this
sends 2.25h.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

from tgsbench.schema import spans
from tgsbench.training.parallel.tracing import span
from tgsbench.training.progress import PROGRESS

_library = torch.library.Library("tgsbench", "DEF")
_library.define("all_to_all(Tensor x, str group_name) -> Tensor")


def _all_to_all_run(x: Tensor, group_name: str) -> Tensor:
    received, group = torch.empty_like(x), _resolve_process_group(group_name)  # type: ignore[arg-type]
    PROGRESS.during("all-to-all", lambda: dist.all_to_all_single(received, x, group=group))
    return received


def _all_to_all_fake(x: Tensor, group_name: str) -> Tensor:
    return torch.empty_like(x)


for _key in ("CPU", "CUDA"):
    _library.impl("all_to_all", _all_to_all_run, _key)
torch.library.register_fake("tgsbench::all_to_all", _all_to_all_fake, lib=_library)

ALL_TO_ALL = torch.ops.tgsbench.all_to_all.default
"""The op that a selective checkpoint saves."""


def all_to_all(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Exchange equal slices of dim 0 (contiguous) with every rank of the group."""
    return ALL_TO_ALL(x.contiguous(), group.group_name)  # type: ignore[no-any-return]


Arrival = Callable[[], tuple[Tensor, ...]]
"""Waits for an exchange that is under way, and gives what it brought."""


def start_scatter(parts: Sequence[Tensor], group: dist.ProcessGroup | None, name: str) -> Arrival:
    """Send sequence shards [B, s, n, d] off; they arrive as head shards [B, S, max(n, p)/p, d].

    `name`: the span of a trace that the exchange belongs to.
    """
    if group is None or group.size() == 1:
        return functools.partial(tuple, parts)
    p = group.size()
    sizes = [(max(x.shape[2], p) // p, x.shape[3]) for x in parts]
    with span(name):
        flight = Flight(_joined(_by_rank(x, p) for x in parts), group)
    return lambda: tuple(_parted(_join_sequence(flight.arrive(name)), sizes))


def start_gather(
    parts: Sequence[Tensor], heads: Sequence[int], group: dist.ProcessGroup | None, name: str
) -> Arrival:
    """Send head shards [B, S, m, d] off; they arrive as sequence shards [B, s, heads, d].

    Copies of a KV head are summed. `name`: the span of a trace that it belongs to.
    """
    if group is None or group.size() == 1:
        return functools.partial(tuple, parts)
    sizes = [(x.shape[2], x.shape[3]) for x in parts]
    with span(name):
        flight = Flight(_joined(_split_sequence(x.contiguous(), group.size()) for x in parts), group)
    return lambda: tuple(
        _from_ranks(x, n) for x, n in zip(_parted(flight.arrive(name), sizes), heads, strict=True)
    )


def shards_to_fill(like: Tensor, heads: int, group: dist.ProcessGroup) -> Tensor:
    """A message [p, B, s, heads, d] of one type with `like` [B, s, n, d], for `start_filled`."""
    batch, seq, _, dim = like.shape
    return like.new_empty(group.size(), batch, seq, heads, dim)


def start_filled(filled: Tensor, sizes: Sequence[int], group: dist.ProcessGroup, name: str) -> Arrival:
    """Send [p, B, s, heads, d] off; its heads arrive as shards [B, S, n, d] for each n of `sizes`."""
    with span(name):
        flight = Flight(filled, group)
    return lambda: _join_sequence(flight.arrive(name)).split(list(sizes), dim=2)


def start_return(parts: list[Tensor], group: dist.ProcessGroup, name: str) -> Arrival:
    """Send head shards [B, S, m, d] off; they arrive as `for_ranks` reads them: [p, B, s, m, d].

    `parts` is emptied: the message has them.
    """
    sizes = [(x.shape[2], x.shape[3]) for x in parts]
    with span(name):
        message = _joined(_split_sequence(x.contiguous(), group.size()) for x in parts)
        parts.clear()
        flight = Flight(message, group)
    return lambda: tuple(_parted(flight.arrive(name), sizes))


def for_ranks(message: Tensor, heads: int, parts: int = 1) -> Tensor:
    """A message [p, B, s, parts·m, d] seen as heads in order: [B, s, parts, p/copies, copies, m, d].

    Of `heads` in `parts` each rank has m of every part; fewer than p go to several ranks each.
    """
    p, *_ = message.shape
    copies = max(1, p // heads)
    by_head: Tensor = message.unflatten(3, (parts, -1)).unflatten(0, (p // copies, copies))
    return by_head.permute(2, 3, 4, 0, 1, 5, 6)


def laid_out_as(to_ranks: Tensor, x: Tensor) -> Tensor:
    """x [B, s, n, d] in the shape of `for_ranks`: a view, repeated where a head goes to several ranks."""
    batch, seq, parts, ranks, _, heads, dim = to_ranks.shape
    return x.reshape(batch, seq, parts, ranks, 1, heads, dim).expand(to_ranks.shape)


def with_next_ahead(first: Arrival, others: Iterator[Arrival]) -> Iterator[Tensor]:
    """What each exchange brings; it is waited for when the next one is under way."""
    under_way = [first]
    del first
    while under_way:
        under_way.extend(itertools.islice(others, 1))
        yield under_way.pop(0)()[0]


def landed(arrival: Arrival) -> Arrival:
    """What an exchange brought, without what was sent."""
    brought = arrival()
    return lambda: brought


class Flight:
    """An all-to-all that goes on beside the computation."""

    def __init__(self, sent: Tensor, group: dist.ProcessGroup) -> None:
        self._sent: Tensor | None = sent.contiguous()
        self._received = torch.empty_like(self._sent)
        PROGRESS.ticks += 1
        self._work: Any = dist.all_to_all_single(self._received, self._sent, group=group, async_op=True)

    def arrive(self, name: str) -> Tensor:
        """What came; on a GPU the stream waits for it and not the host."""
        with span(name):
            PROGRESS.during("all-to-all", self._work.wait)
        self._sent = None
        return self._received


def scatter_heads(
    q: Tensor, k: Tensor, v: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Trade sequence shards for head shards.

    q [B, s, a, d], k [B, s, n, d], v [B, s, n, e] -> [B, S, a/p, d], [B, S, m, d] and [B, S, m, e] with
    m = max(n, p)/p.
    """
    if group is None or group.size() == 1:
        return q, k, v
    return _ScatterHeads.apply(q, k, v, group)  # type: ignore[no-any-return, no-untyped-call]


def gather_heads(out: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Trade head shards back for sequence shards: [B, S, a/p, d] -> [B, s, a, d]."""
    if group is None or group.size() == 1:
        return out
    return _GatherHeads.apply(out, group)  # type: ignore[no-any-return, no-untyped-call]


def own_heads(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """This rank's share [a/p] of a value for each query head [a]."""
    if group is None or group.size() == 1:
        return x
    return x.chunk(group.size())[group.rank()]


def _by_rank(x: Tensor, p: int) -> Tensor:
    """[B, s, a, d] -> [p, B, s, a/p, d], a view; KV heads fewer than p are repeated up to p."""
    batch, seq, heads, dim = x.shape
    if heads < p:
        x = x.unsqueeze(3).expand(batch, seq, heads, p // heads, dim)
        return x.reshape(batch, seq, p, 1, dim).permute(2, 0, 1, 3, 4)
    return x.view(batch, seq, p, heads // p, dim).permute(2, 0, 1, 3, 4)


def _from_ranks(x: Tensor, heads: int) -> Tensor:
    """[p, B, s, a/p, d] -> [B, s, a, d]; the gradients of repeated KV heads are summed."""
    p, batch, seq, _, dim = x.shape
    x = x.permute(1, 2, 0, 3, 4)
    if heads < p:
        return x.reshape(batch, seq, heads, p // heads, dim).sum(dim=3)
    return x.reshape(batch, seq, heads, dim)


def _join_sequence(x: Tensor) -> Tensor:
    """[p, B, s, …] -> [B, S, …]; a view when B = 1."""
    p, batch, seq, *rest = x.shape
    return x.transpose(0, 1).reshape(batch, p * seq, *rest)


def _split_sequence(x: Tensor, p: int) -> Tensor:
    """[B, S, …] -> [p, B, s, …]; a view."""
    batch, seq, *rest = x.shape
    return x.view(batch, p, seq // p, *rest).transpose(0, 1)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """Several [..., H, d] side by side: [..., w]; no copy of one alone."""
    flat = [part.flatten(-2) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)


def _parted(x: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[..., w] -> the [..., H, d] that lie side by side in it, as views."""
    parts = x.split([heads * dim for heads, dim in sizes], dim=-1)
    return [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]


class _ScatterHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, group: dist.ProcessGroup) -> Any:
        p = group.size()
        ctx.group, ctx.heads = group, (q.shape[2], k.shape[2], v.shape[2])
        kv = max(k.shape[2], p) // p
        sizes = [(q.shape[2] // p, q.shape[3]), (kv, k.shape[3]), (kv, v.shape[3])]
        with span(spans.A2A_PRE):
            send = _joined(_by_rank(x, p) for x in (q, k, v))
            received = _join_sequence(all_to_all(send, group))
        return tuple(_parted(received, sizes))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        p = ctx.group.size()
        with span(spans.A2A_PRE):
            send = _joined(_split_sequence(g.contiguous(), p) for g in grads)
            received = all_to_all(send, ctx.group)
        parts = _parted(received, [(g.shape[2], g.shape[3]) for g in grads])
        grad_q, grad_k, grad_v = (_from_ranks(x, n) for x, n in zip(parts, ctx.heads, strict=True))
        return grad_q, grad_k, grad_v, None


class _GatherHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, group: dist.ProcessGroup) -> Any:
        p = group.size()
        ctx.group = group
        with span(spans.A2A_POST):
            received = all_to_all(_split_sequence(out.contiguous(), p), group)
        return _from_ranks(received, out.shape[2] * p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        p = ctx.group.size()
        with span(spans.A2A_POST):
            received = all_to_all(_by_rank(grads[0].contiguous(), p), ctx.group)
        return _join_sequence(received), None
