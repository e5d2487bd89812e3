"""Ring attention: keys and values pass from member to member while each attends to what it has.

Signature and layout are those of an attention kernel: q [B, L, a, d], k and v [B, L, m, d] -> [B, L, a, d],
with L = S/ring tokens of each row in the zigzag order of `workload.zigzag`, and a and m this rank's heads
after the Ulysses exchange. Keys and values travel at their own head count, side by side in one message a
step, and the next ones are on their way while a step is computed. Outputs are merged by their log-sum-exp
in fp32. The backward passes the keys on once more, and after them their gradients in fp32, which after one
more hop have been all the way round (Liu et al. 2023, "Ring Attention with Blockwise Transformers").

A layer with a window needs keys of a few members alone: they send theirs straight to those that see some of
them, and get the gradients straight back. A sink joins the log-sum-exp when all keys are in.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tgsbench.schema import spans
from tgsbench.systems.ring_steps import is_cut, met_steps
from tgsbench.training.attention.blocks import BLOCK_KERNELS, BlockKernel, Saved
from tgsbench.training.attention.documents import PackDocuments, documents
from tgsbench.training.attention.kernels import AttentionKernel
from tgsbench.training.attention.sinks import share_of, sink_gradients, with_sinks
from tgsbench.training.attention.windowed import PLAIN, Own
from tgsbench.training.parallel.tracing import span
from tgsbench.training.progress import PROGRESS
from tgsbench.workload.zigzag import Layout, SeenBlock

_KEYS, _GRADIENTS = 0, 1
"""Tags of messages that are under way between the same two ranks at once."""


class Plan(NamedTuple):
    """What this member computes in one micro-step, rows laid end to end."""

    own: PackDocuments
    """Documents of what it holds: rows, or parts of the pack's documents."""
    steps: tuple[tuple[SeenBlock, ...], ...]
    """Blocks of each step after the first that is taken; without a window at most one a row."""
    hops: tuple[int, ...]
    """How far away the keys of each of these steps are held."""
    own_blocks: tuple[SeenBlock, ...] = ()
    """What the late chunk sees of the early one, where a window cuts them apart."""
    window: int = 0
    """Tokens that a query sees; 0: all before."""

    @property
    def left(self) -> int:
        """Keys before its own that a query sees in its document; -1: all."""
        return self.window - 1


class Transfer(NamedTuple):
    """A message to the next member and one from the member before, both under way."""

    received: Tensor
    sent: Tensor
    works: list[dist.Work]

    def wait(self) -> Tensor:
        """What came; on a GPU the compute stream waits, not the host."""
        PROGRESS.during("ring send/recv", lambda: [work.wait() for work in self.works])
        return self.received


class Ring:
    """This rank's place in a ring, and the plan of its current pack."""

    def __init__(self, group: dist.ProcessGroup, seq_len: int, device: torch.device) -> None:
        self.size, self.member = group.size(), group.rank()
        self.blocks = BLOCK_KERNELS[device.type]()
        self._layout = Layout(seq_len, self.size, self.size)
        self._group, self._device = group, device
        self._plans: dict[tuple[int, int], Plan] = {}
        self._planned: PackDocuments | None = None
        self._number = next(_NUMBERS)
        _RINGS[self._number] = self

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own = PLAIN
    ) -> Tensor:
        """An attention kernel's call; `docs`: those of whole packs, laid end to end."""
        window = own.window if is_cut(self._layout.seq_len, own.window) else 0
        self._prepare(docs, q.shape[0] * q.shape[1], window)
        rows = (x.flatten(0, 1) for x in (q, k, v))
        out: Tensor = _RingAttention.apply(*rows, own.sinks, scale, window, self)  # type: ignore[no-untyped-call]
        return out.view_as(q)

    def kernel(self) -> AttentionKernel:
        """The attention kernel that models call."""
        name = "varlen" if self._device.type == "cuda" else "sdpa"
        reason = f"a ring of {self.size} by torch's flash attention, merged by log-sum-exp"
        return AttentionKernel(name, str(torch.__version__), self.attend, reason)

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, scale: float, window: int
    ) -> tuple[Tensor, Tensor]:
        """The op that a selective checkpoint saves: output, and log-sum-exp [a, T] in fp32."""
        return RING_FORWARD(q, k, v, sinks, scale, window, self._number)  # type: ignore[no-any-return]

    def plan(self, num_tokens: int, window: int) -> Plan:
        """The plan of the pack whose documents were given last, for layers with this window."""
        return self._plans[num_tokens, window]

    def pass_on(self, sent: Tensor, tag: int, hop: int = 1) -> Transfer:
        """Start to send to the member `hop` places on, and to receive as much from as far before."""
        received = torch.empty_like(sent)
        after, before = (
            dist.get_global_rank(self._group, (self.member + step) % self.size) for step in (hop, -hop)
        )
        with span(spans.RING):
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, sent, after, self._group, tag),
                    dist.P2POp(dist.irecv, received, before, self._group, tag),
                ]
            )
        return Transfer(received, sent, works)

    def _prepare(self, docs: PackDocuments | None, num_tokens: int, window: int) -> None:
        """Plan once a micro-step, not once a layer."""
        if docs is not self._planned:
            self._plans.clear()
            self._planned = docs
        if (num_tokens, window) not in self._plans:
            self._plans[num_tokens, window] = self._make_plan(docs, num_tokens, window)

    def _make_plan(self, docs: PackDocuments | None, num_tokens: int, window: int) -> Plan:
        layout, length = self._layout, self._layout.seq_len
        held = 2 * layout.chunk
        rows = num_tokens // held
        edges = range(0, rows * length + 1, length) if docs is None else docs.on_host.tolist()
        by_row = [row_borders(edges, row * length, length) for row in range(rows)]
        own = [0]
        for row, borders in enumerate(by_row):
            own += [row * held + edge for edge in layout.own_borders(borders, self.member, window)[1:]]
        hops = met_steps(length, self.size, window)
        of_own, *steps = (
            tuple(
                block.moved(row * held)
                for row, borders in enumerate(by_row)
                for block in _blocks(layout, borders, self.member, step, window)
            )
            for step in (0, *hops)
        )
        own_documents = documents(torch.tensor(own, dtype=torch.int32), self._device)
        return Plan(own_documents, tuple(steps), hops, of_own, window)


def _blocks(layout: Layout, borders: list[int], member: int, step: int, window: int) -> list[SeenBlock]:
    if window:
        return layout.window_blocks(borders, member, step, window)
    block = layout.block(borders, member, step) if step else None
    return [block] if block else []


def row_borders(edges: Any, begin: int, length: int) -> list[int]:
    """Borders of the documents of one row, from 0 to its length."""
    inside = {edge - begin for edge in edges if begin < edge < begin + length}
    return sorted({0, length, *inside})


_RINGS: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()

_library = torch.library.Library("tgsbench", "FRAGMENT")
_library.define(
    "ring_forward(Tensor q, Tensor k, Tensor v, Tensor? sinks, float scale, int window, int ring)"
    " -> (Tensor, Tensor)"
)


def _ring_forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, scale: float, window: int, number: int
) -> tuple[Tensor, Tensor]:
    ring = _RINGS[number]
    plan = ring.plan(len(q), window)
    own = torch.stack([k, v])
    arrivals = Arrivals(ring, plan, own)
    out, lse = ring.blocks.forward(q, k, v, scale, plan.own, plan.left)
    out = out.float()
    for block in plan.own_blocks:
        add_block(ring.blocks, q, own, scale, block, (out, lse))
    for blocks, here in zip(plan.steps, arrivals, strict=True):
        for block in blocks:
            add_block(ring.blocks, q, here, scale, block, (out, lse))
    if sinks is not None:
        out, lse = with_sinks(out, lse, sinks)
    return out.to(q.dtype), lse


class Arrivals:
    """Keys and values [2, T, m, d] of each step of a plan, the next ones under way while one is used."""

    def __init__(self, ring: Ring, plan: Plan, own: Tensor) -> None:
        self._ring, self._plan, self._own = ring, plan, own
        self._coming = self._send(0, own) if plan.hops else None

    def __iter__(self) -> Iterator[Tensor]:
        for step in range(len(self._plan.hops)):
            assert self._coming is not None
            here = self._coming.wait()
            if step + 1 < len(self._plan.hops):
                self._coming = self._send(step + 1, here)
            yield here

    def _send(self, step: int, here: Tensor) -> Transfer:
        """Pass on what is here, or what is this member's own to the one that needs it at a step."""
        if not self._plan.window:
            return self._ring.pass_on(here, _KEYS)
        return self._ring.pass_on(self._own, _KEYS, self._plan.hops[step])


def add_block(
    kernel: BlockKernel, q: Tensor, kv: Tensor, scale: float, block: SeenBlock, so_far: tuple[Tensor, Tensor]
) -> None:
    """Attend to one block of keys and values [2, T, m, d], and merge it into output and log-sum-exp."""
    queries, keys = slice(block.q_begin, block.q_end), slice(block.k_begin, block.k_end)
    part, part_lse = kernel.forward(q[queries], kv[0, keys], kv[1, keys], scale, None, block.left)
    merge(so_far[0][queries], so_far[1][:, queries], part, part_lse)


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge a part of the keys into out [T, a, d] and lse [a, T], fp32, in place.

    log(exp x + exp y) is taken with the larger one taken out, so that no score overflows.
    """
    total = torch.logaddexp(lse, part_lse)
    out.mul_(share_of(lse - total)).add_(part * share_of(part_lse - total))
    lse.copy_(total)


def _ring_forward_fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


for _key in ("CPU", "CUDA"):
    _library.impl("ring_forward", _ring_forward, _key)
torch.library.register_fake("tgsbench::ring_forward", _ring_forward_fake, lib=_library)

RING_FORWARD = torch.ops.tgsbench.ring_forward.default


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        scale: float,
        window: int,
        ring: Ring,
    ) -> Tensor:
        out, lse = ring.run(q, k, v, sinks, scale, window)
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.scale, ctx.window, ctx.ring = scale, window, ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *rest, sinks = ctx.saved_tensors
        saved, grad = Saved(*rest), grads[0].contiguous()
        plan = ctx.ring.plan(len(grad), ctx.window)
        backward = _window_backward if ctx.window else _ring_backward
        grad_q, grad_kv = backward(ctx.ring, plan, grad, saved, ctx.scale)
        grad_k, grad_v = grad_kv.to(saved.k.dtype).unbind(0)
        grad_sinks = None if sinks is None else sink_gradients(grad, saved, sinks)
        return grad_q.to(saved.q.dtype), grad_k, grad_v, grad_sinks, None, None, None


def _ring_backward(ring: Ring, plan: Plan, grad: Tensor, saved: Saved, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients in fp32 of q [T, a, d], and of this member's own keys and values [2, T, m, d]."""
    arrivals = Arrivals(ring, plan, torch.stack([saved.k, saved.v]))
    grad_q, *own = ring.blocks.backward(grad, saved, scale, plan.own)
    grad_q, sums = grad_q.float(), ring.pass_on(torch.stack(own).float(), _GRADIENTS)
    for blocks, here in zip(plan.steps, arrivals, strict=True):
        parts = [add_gradients(ring.blocks, grad, saved, here, scale, block, grad_q) for block in blocks]
        summed = sums.wait()
        add_to_keys(summed, blocks, parts)
        sums = ring.pass_on(summed, _GRADIENTS)
    return grad_q, sums.wait()


def _window_backward(
    ring: Ring, plan: Plan, grad: Tensor, saved: Saved, scale: float
) -> tuple[Tensor, Tensor]:
    """The same of a layer with a window: gradients of a step's keys go straight back to their member."""
    kv = torch.stack([saved.k, saved.v])
    arrivals = Arrivals(ring, plan, kv)
    grad_q, *own = ring.blocks.backward(grad, saved, scale, plan.own, plan.left)
    grad_q, total = grad_q.float(), torch.stack(own).float()
    parts = [add_gradients(ring.blocks, grad, saved, kv, scale, block, grad_q) for block in plan.own_blocks]
    add_to_keys(total, plan.own_blocks, parts)
    returning: Transfer | None = None
    for blocks, hop, here in zip(plan.steps, plan.hops, arrivals, strict=True):
        parts = [add_gradients(ring.blocks, grad, saved, here, scale, block, grad_q) for block in blocks]
        theirs = torch.zeros_like(total)
        add_to_keys(theirs, blocks, parts)
        if returning is not None:
            total += returning.wait()
        returning = ring.pass_on(theirs, _GRADIENTS, -hop)
    if returning is not None:
        total += returning.wait()
    return grad_q, total


def add_to_keys(summed: Tensor, blocks: Sequence[SeenBlock], parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add gradients of each block's keys and values to those of all [2, T, m, d]."""
    for block, (grad_k, grad_v) in zip(blocks, parts, strict=True):
        keys = slice(block.k_begin, block.k_end)
        summed[0, keys] += grad_k
        summed[1, keys] += grad_v


def add_gradients(
    kernel: BlockKernel,
    grad: Tensor,
    saved: Saved,
    kv: Tensor,
    scale: float,
    block: SeenBlock,
    grad_q: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add one block's share to the gradient of q; returns those of its keys and values."""
    queries, keys = slice(block.q_begin, block.q_end), slice(block.k_begin, block.k_end)
    here = Saved(
        saved.q[queries], kv[0, keys], kv[1, keys], saved.out[queries], saved.lse[:, queries].contiguous()
    )
    part_q, part_k, part_v = kernel.backward(grad[queries], here, scale, None, block.left)
    grad_q[queries] += part_q
    return part_k, part_v
