"""Tokens to the ranks of their experts and back: all-to-alls whose parts differ in size.

Letters: T tokens of this rank, k experts of each, E experts in all, h hidden size, p ranks of the group, R
rows that arrive at this rank. Sent are T·k rows [h], sorted by expert and so by rank; a token goes once for
each of its experts.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

from tgsbench.training.parallel.tracing import span
from tgsbench.training.progress import PROGRESS

_library = torch.library.Library("tgsbench", "FRAGMENT")
_library.define("expert_all_to_all(Tensor x, int[] sent, int[] received, str group_name) -> Tensor")


def _run(x: Tensor, sent: list[int], received: list[int], group_name: str) -> Tensor:
    arrived = _fake(x, sent, received, group_name)
    group = _resolve_process_group(group_name)  # type: ignore[arg-type]
    PROGRESS.during("all-to-all", lambda: dist.all_to_all_single(arrived, x, received, sent, group=group))
    return arrived


def _fake(x: Tensor, sent: list[int], received: list[int], group_name: str) -> Tensor:
    return x.new_empty(sum(received), *x.shape[1:])


for _key in ("CPU", "CUDA"):
    _library.impl("expert_all_to_all", _run, _key)
torch.library.register_fake("tgsbench::expert_all_to_all", _fake, lib=_library)


class ExpertExchange(NamedTuple):
    """Which rows go where, and which of this rank's experts those that come belong to."""

    sent: list[int]
    """Rows to each rank."""
    received: list[int]
    """Rows from each rank."""
    experts: Tensor
    """Of this rank's experts, counted from 0, that of each row that comes: int64 [R]."""

    @classmethod
    def of(cls, chosen: Tensor, num_local: int, group: dist.ProcessGroup, is_uniform: bool) -> Self:
        """Ask the others how many rows of each expert come; chosen [T, k] of all E = p · `num_local` experts.

        Where tokens are dealt in turn every rank knows it, and nobody asks or waits.
        """
        flat, p = chosen.flatten(), group.size()
        counts = torch.zeros(p * num_local, dtype=torch.int64, device=flat.device)
        counts = counts.scatter_add(0, flat, torch.ones_like(flat)).view(p, num_local)
        if is_uniform:
            dealt = _dealt(flat.numel(), p, num_local)
            sent, received = dealt, [dealt[group.rank()]] * p
            coming = counts[group.rank()].repeat(p)
        else:
            equal = [1] * p
            coming = torch.ops.tgsbench.expert_all_to_all(counts, equal, equal, group.group_name)
            sent, received = torch.stack([counts.sum(1), coming.sum(1)]).tolist()
        own = torch.arange(num_local, device=flat.device).repeat(p)
        return cls(sent, received, own.repeat_interleave(coming.flatten(), output_size=sum(received)))


def _dealt(num_rows: int, p: int, num_local: int) -> list[int]:
    """Rows of each rank's experts when rows are dealt to all experts in turn."""
    rounds, rest = divmod(num_rows, p * num_local)
    return [num_local * rounds + min(num_local, max(0, rest - rank * num_local)) for rank in range(p)]


def expert_all_to_all(
    x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup, name: str
) -> Tensor:
    """Send `sent` rows of x to each rank and take `received` from each; gradients go the other way.

    `name`: the span of a trace that it belongs to.
    """
    arrived: Tensor = _Exchange.apply(x, sent, received, group.group_name, name)  # type: ignore[no-untyped-call]
    return arrived


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sent: list[int], received: list[int], group_name: str, name: str
    ) -> Tensor:
        ctx.way_back = received, sent, group_name, name
        return _exchanged(x, sent, received, group_name, name)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _exchanged(grads[0], *ctx.way_back), None, None, None, None


def _exchanged(x: Tensor, sent: list[int], received: list[int], group_name: str, name: str) -> Tensor:
    with span(name):
        arrived: Tensor = torch.ops.tgsbench.expert_all_to_all(x.contiguous(), sent, received, group_name)
    return arrived
