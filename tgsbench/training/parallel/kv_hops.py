"""Keys and values in two hops, where fewer KV heads than ranks go to ranks of several nodes.

Letters as in `ulysses`, and N nodes of g ranks, p = N·g, u = max(1, n/N) heads that a node's ranks need.
Straight, a rank sends each of a node's g ranks a copy of its head. Here it sends the node's u heads once, to
the rank of its own place there; that rank has N·s tokens then, of which it sends every neighbour the head
that this one needs. For 8 heads on 8 nodes of 8, an eighth of these bytes are left between nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from tgsbench.schema import spans
from tgsbench.training.parallel.tracing import span
from tgsbench.training.parallel.ulysses import (
    Arrival,
    Flight,
    for_ranks,
    laid_out_as,
    shards_to_fill,
    start_filled,
    start_return,
)


@dataclass(frozen=True)
class KvHops:
    """The groups of both hops."""

    between: dist.ProcessGroup
    """Ranks of equal place in their nodes, one of each node."""
    inside: dist.ProcessGroup
    """Ranks of this node."""
    node_heads: int
    """Heads that the ranks of a node need between them."""

    def spread(self, arrive: Arrival) -> Arrival:
        """Second hop: k and v [B, N·s, u, d] to whoever needs a head; they arrive as [B, S, 1, d]."""
        parts = arrive()
        message = shards_to_fill(parts[0], len(parts), self.inside)
        for x, part in zip(parts, message.split(1, dim=3), strict=True):
            to_ranks = for_ranks(part, self.node_heads)
            to_ranks.copy_(laid_out_as(to_ranks, x))
        arrive = start_filled(message, [1] * len(parts), self.inside, spans.A2A_PRE)
        return lambda: tuple(map(self._by_node, arrive()))

    def _by_node(self, x: Tensor) -> Tensor:
        """[B, S, 1, d] from the order of places and their nodes into that of the sequence."""
        by_place: Tensor = x.unflatten(1, (self.inside.size(), self.between.size(), -1))
        return by_place.transpose(1, 2).flatten(1, 3)

    def collect(self, grads: list[Tensor]) -> Arrival:
        """Gradients of copies [B, S, 1, d] to the ranks that they came from, as messages [g, B, N·s, 1, d].

        `grads` is emptied.
        """
        batch, seq, _, dim = grads[0].shape
        nodes, places = self.between.size(), self.inside.size()
        message = grads[0].new_empty(places, batch, seq // places, len(grads), dim)
        for x, part in zip(grads, message.split(1, dim=3), strict=True):
            by_place = x.unflatten(1, (nodes, places, -1)).permute(2, 0, 1, 3, 4, 5)
            part.unflatten(2, (nodes, -1)).copy_(by_place)
        grads.clear()
        with span(spans.A2A_PRE):
            flight = Flight(message, self.inside)
        return lambda: flight.arrive(spans.A2A_PRE).split(1, dim=3)

    def give_back(self, arrive: Arrival) -> Arrival:
        """Sum what `collect` brought over the copies, once, and send it between nodes: [N, B, s, u, d]."""
        summed = [for_ranks(message, self.node_heads).sum(dim=4).flatten(2, 4) for message in arrive()]
        return start_return(summed, self.between, spans.A2A_PRE)
