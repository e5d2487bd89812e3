"""Ring attention: keys and values pass from member to member while each attends to what it has.

Signature and layout are those of an attention kernel: q [B, L, a, d], k and v [B, L, m, d] -> [B, L, a, d],
with L = S/ring tokens of each row in the zigzag order of `workload.zigzag`, and a and m this rank's heads
after the Ulysses exchange. Keys and values travel at their own head count, side by side in one message a
step, and the next ones are on their way while a step is computed. Outputs are merged by their log-sum-exp
in fp32. The backward passes the keys on once more, and after them their gradients in fp32, which after one
more hop have been all the way round (Liu et al. 2023, "Ring Attention with Blockwise Transformers").
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tgsbench.schema import spans
from tgsbench.training.attention.blocks import BLOCK_KERNELS, Saved
from tgsbench.training.attention.documents import PackDocuments, documents
from tgsbench.training.attention.kernels import AttentionKernel
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
    """Blocks of each step after the first, at most one a row."""


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
        self._after, self._before = (
            dist.get_global_rank(group, (self.member + step) % self.size) for step in (1, -1)
        )
        self._plans: dict[int, Plan] = {}
        self._planned: PackDocuments | None = None
        self._number = next(_NUMBERS)
        _RINGS[self._number] = self

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own = PLAIN
    ) -> Tensor:
        """An attention kernel's call; `docs`: those of whole packs, laid end to end."""
        assert own.is_plain, "the preset's check refuses windows and sinks"
        self._prepare(docs, q.shape[0] * q.shape[1])
        out: Tensor = _RingAttention.apply(*(x.flatten(0, 1) for x in (q, k, v)), scale, self)  # type: ignore[no-untyped-call]
        return out.view_as(q)

    def kernel(self) -> AttentionKernel:
        """The attention kernel that models call."""
        name = "varlen" if self._device.type == "cuda" else "sdpa"
        reason = f"a ring of {self.size} by torch's flash attention, merged by log-sum-exp"
        return AttentionKernel(name, str(torch.__version__), self.attend, reason)

    def run(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The op that a selective checkpoint saves: output, and log-sum-exp [a, T] in fp32."""
        return RING_FORWARD(q, k, v, scale, self._number)  # type: ignore[no-any-return]

    def plan(self, num_tokens: int) -> Plan:
        """The plan of the pack whose documents were given last."""
        return self._plans[num_tokens]

    def pass_on(self, sent: Tensor, tag: int) -> Transfer:
        """Start to send to the next member and to receive as much from the one before."""
        received = torch.empty_like(sent)
        with span(spans.RING):
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, sent, self._after, self._group, tag),
                    dist.P2POp(dist.irecv, received, self._before, self._group, tag),
                ]
            )
        return Transfer(received, sent, works)

    def _prepare(self, docs: PackDocuments | None, num_tokens: int) -> None:
        """Plan once a micro-step, not once a layer."""
        if docs is not self._planned:
            self._plans.clear()
            self._planned = docs
        if num_tokens not in self._plans:
            self._plans[num_tokens] = self._make_plan(docs, num_tokens)

    def _make_plan(self, docs: PackDocuments | None, num_tokens: int) -> Plan:
        layout, length = self._layout, self._layout.seq_len
        held = 2 * layout.chunk
        rows = num_tokens // held
        edges = range(0, rows * length + 1, length) if docs is None else docs.on_host.tolist()
        by_row = [_row_borders(edges, row * length, length) for row in range(rows)]
        own = [0]
        for row, borders in enumerate(by_row):
            own += [row * held + edge for edge in layout.own_borders(borders, self.member)[1:]]
        steps = tuple(
            tuple(
                block.moved(row * held)
                for row, borders in enumerate(by_row)
                if (block := layout.block(borders, self.member, step))
            )
            for step in range(1, self.size)
        )
        return Plan(documents(torch.tensor(own, dtype=torch.int32), self._device), steps)


def _row_borders(edges: Any, begin: int, length: int) -> list[int]:
    """Borders of the documents of one row, from 0 to its length."""
    inside = {edge - begin for edge in edges if begin < edge < begin + length}
    return sorted({0, length, *inside})


_RINGS: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()

_library = torch.library.Library("tgsbench", "FRAGMENT")
_library.define("ring_forward(Tensor q, Tensor k, Tensor v, float scale, int ring) -> (Tensor, Tensor)")


def _ring_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, number: int) -> tuple[Tensor, Tensor]:
    ring = _RINGS[number]
    plan = ring.plan(len(q))
    here = torch.stack([k, v])
    coming = ring.pass_on(here, _KEYS)
    out, lse = ring.blocks.forward(q, k, v, scale, plan.own)
    out = out.float()
    for step, blocks in enumerate(plan.steps, start=1):
        here = coming.wait()
        if step < ring.size - 1:
            coming = ring.pass_on(here, _KEYS)
        for block in blocks:
            add_block(ring, q, here, scale, block, (out, lse))
    return out.to(q.dtype), lse


def add_block(
    ring: Ring, q: Tensor, kv: Tensor, scale: float, block: SeenBlock, so_far: tuple[Tensor, Tensor]
) -> None:
    """Attend to one block of keys and values [2, T, m, d], and merge it into output and log-sum-exp."""
    queries, keys = slice(block.q_begin, block.q_end), slice(block.k_begin, block.k_end)
    part, part_lse = ring.blocks.forward(q[queries], kv[0, keys], kv[1, keys], scale, None)
    merge(so_far[0][queries], so_far[1][:, queries], part, part_lse)


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge a part of the keys into out [T, a, d] and lse [a, T], fp32, in place.

    log(exp x + exp y) is taken with the larger one taken out, so that no score overflows.
    """
    total = torch.logaddexp(lse, part_lse)
    out.mul_(_weight(lse - total)).add_(part * _weight(part_lse - total))
    lse.copy_(total)


def _weight(log_share: Tensor) -> Tensor:
    """[a, T] -> [T, a, 1]."""
    return log_share.exp().t().unsqueeze(2)


def _ring_forward_fake(q: Tensor, k: Tensor, v: Tensor, scale: float, number: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


for _key in ("CPU", "CUDA"):
    _library.impl("ring_forward", _ring_forward, _key)
torch.library.register_fake("tgsbench::ring_forward", _ring_forward_fake, lib=_library)

RING_FORWARD = torch.ops.tgsbench.ring_forward.default


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, ring: Ring) -> Tensor:
        out, lse = ring.run(q, k, v, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale, ctx.ring = scale, ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = Saved(*ctx.saved_tensors)
        grad_q, grad_kv = _ring_backward(ctx.ring, grads[0].contiguous(), saved, ctx.scale)
        grad_k, grad_v = grad_kv.to(saved.k.dtype).unbind(0)
        return grad_q.to(saved.q.dtype), grad_k, grad_v, None, None


def _ring_backward(ring: Ring, grad: Tensor, saved: Saved, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients in fp32 of q [T, a, d], and of this member's own keys and values [2, T, m, d]."""
    plan = ring.plan(len(grad))
    coming = ring.pass_on(torch.stack([saved.k, saved.v]), _KEYS)
    grad_q, *own = ring.blocks.backward(grad, saved, scale, plan.own)
    grad_q, sums = grad_q.float(), ring.pass_on(torch.stack(own).float(), _GRADIENTS)
    for step, blocks in enumerate(plan.steps, start=1):
        here = coming.wait()
        if step < ring.size - 1:
            coming = ring.pass_on(here, _KEYS)
        parts = [add_gradients(ring, grad, saved, here, scale, block, grad_q) for block in blocks]
        summed = sums.wait()
        for block, (grad_k, grad_v) in zip(blocks, parts, strict=True):
            keys = slice(block.k_begin, block.k_end)
            summed[0, keys] += grad_k
            summed[1, keys] += grad_v
        sums = ring.pass_on(summed, _GRADIENTS)
    return grad_q, sums.wait()


def add_gradients(
    ring: Ring, grad: Tensor, saved: Saved, kv: Tensor, scale: float, block: SeenBlock, grad_q: Tensor
) -> tuple[Tensor, Tensor]:
    """Add one block's share to the gradient of q; returns those of its keys and values."""
    queries, keys = slice(block.q_begin, block.q_end), slice(block.k_begin, block.k_end)
    here = Saved(
        saved.q[queries], kv[0, keys], kv[1, keys], saved.out[queries], saved.lse[:, queries].contiguous()
    )
    part_q, part_k, part_v = ring.blocks.backward(grad[queries], here, scale, None)
    grad_q[queries] += part_q
    return part_k, part_v
