"""What a whole layer computes in one pass: its products, its exchanges, and their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from tgsbench.schema import spans
from tgsbench.training.attention.kept import HasRun
from tgsbench.training.model import fused_layers
from tgsbench.training.model.fp8 import Operand
from tgsbench.training.model.head_norm import BeforeNorm, HeadNorm
from tgsbench.training.model.layer_weights import LayerWeights
from tgsbench.training.model.tiled_mlp import tiles_backward, tiles_forward
from tgsbench.training.parallel.offload import HostOffload
from tgsbench.training.parallel.tracing import span
from tgsbench.training.parallel.ulysses import (
    Arrival,
    for_ranks,
    laid_out_as,
    landed,
    shards_to_fill,
    start_filled,
    start_gather,
    start_return,
    start_scatter,
    with_next_ahead,
)

if TYPE_CHECKING:
    from tgsbench.training.model.whole_layer import WholeLayer

Inputs = tuple[Tensor, Tensor, Tensor]
"""q, k and v of one chunk of heads over the whole sequence."""


@dataclass
class LayerMlp:
    """What the MLP's backward needs, each [T, …]; nothing of the MLP itself where it runs in tiles."""

    hidden: Tensor
    inverse: Tensor
    normed: Tensor | None
    gate: Tensor | None = None
    up: Tensor | None = None


class LayerPass:
    """One layer's weights and positions in one pass; T = B·s rows."""

    def __init__(self, layer: WholeLayer, x: Tensor, flat: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.layer, self.w = layer, layer.weights(flat)
        self.of_inputs, self.of_gradients = layer.products.of_inputs, layer.products.of_gradients
        self.group = layer.attention.group
        self.shape = x.shape[:2]
        self.num_rows = x.shape[0] * x.shape[1]
        self.cos, self.sin = cos, sin
        self._rows: Tensor | None = x.flatten(0, 1)
        self._normed: Tensor | None = None
        self._inverse: Tensor | None = None
        self.q_norm, self.k_norm = (
            None if weight is None else HeadNorm(weight, layer.eps)
            for weight in (self.w.q_norm, self.w.k_norm)
        )
        self.keeps_heads = False
        """Is what goes into norms of heads kept? Else a backward makes it again: one product of q and k."""

        self.away: Away | None = None
        """Where the input may be let go, because it comes again from the host."""

    @property
    def rows(self) -> Tensor:
        """The layer's input [T, h]; one that was let go comes back."""
        if self._rows is None:
            assert self.away is not None
            self._rows = self.away.bring().flatten(0, 1)
        return self._rows

    def normed(self) -> tuple[Tensor, Tensor]:
        """The normed input [T, h] and its 1/rms; computed when it is not there."""
        if self._normed is None or self._inverse is None:
            self._normed, self._inverse = fused_layers.norm_forward(self.rows, self.w.norm, self.layer.eps)
        return self._normed, self._inverse

    def hold_normed(self, normed: Tensor, inverse: Tensor) -> None:
        """Hold what the forward kept."""
        self._normed, self._inverse = normed, inverse

    def drop_normed(self) -> Tensor:
        """Hold the normed input no longer; its 1/rms."""
        assert self._inverse is not None
        self._normed = None
        return self._inverse

    def kept_heads(self) -> list[Tensor]:
        """What norms of heads keep: of each chunk of q, and of k."""
        norms = [norm for norm in (self.q_norm, self.k_norm) if norm is not None]
        return [x for norm in norms for before in norm.kept for x in before]

    def hold_heads(self, kept: list[Tensor]) -> None:
        """Hold what `kept_heads` gave."""
        if self.q_norm is None or self.k_norm is None:
            return
        pairs = [BeforeNorm(*pair) for pair in zip(kept[::2], kept[1::2], strict=True)]
        self.q_norm.kept, self.k_norm.kept = pairs[:-1], pairs[-1:]

    def let_go(self) -> None:
        """Hold neither an input that waits on the host nor its norm's result until they are asked for.

        Two tensors [T, h] less in the backward of MLP and attention.
        """
        if self.away is not None:
            self._rows = self._normed = None

    def split_heads(self, x: Tensor) -> Tensor:
        """[T, n·d] -> [B, s, n, d]."""
        return x.view(*self.shape, -1, self.layer.head_dim)

    def rotated(self, x: Tensor, sign: float = 1.0, into: Tensor | None = None) -> Tensor:
        """RoPE of [B, s, …, d], or its transpose for sign -1; as it is where the layer has no positions."""
        if not self.layer.has_rope:
            return x if into is None else into.copy_(x)
        heads = (1,) * (x.dim() - 3)
        cos, sin = (angles.view(*self.shape, *heads, -1) for angles in (self.cos, self.sin))
        return fused_layers.rotated(x, cos, sin, sign, into)

    def chunk_of_q(self, index: int, q: Tensor) -> Tensor:
        """Rows of q's weight [a·d, h] that give one chunk of every rank's heads.

        Chunks with KV heads of their own lie one after the other; those that share one are cut out of it, the
        first ones larger by a head where they cannot be equal.
        """
        layer = self.layer
        if layer.chunks == 1:
            return q
        if not layer.shares_kv:
            return q.chunk(layer.chunks)[index]
        return q.view(layer.sp, -1, layer.head_dim, q.shape[1]).chunk(layer.chunks, dim=1)[index]

    def chunk_of_o(self, index: int, o: Tensor) -> Tensor:
        """Columns of the output projection [h, a·d] that take one chunk of every rank's heads."""
        layer = self.layer
        if layer.chunks == 1:
            return o
        if not layer.shares_kv:
            return o.chunk(layer.chunks, dim=1)[index]
        return o.view(o.shape[0], layer.sp, -1, layer.head_dim).chunk(layer.chunks, dim=2)[index]

    def q_weight(self, index: int) -> Tensor:
        """`chunk_of_q` of the weight, as one matrix."""
        return self.chunk_of_q(index, self.w.q).reshape(-1, self.w.q.shape[1])

    def _chunk_of_bias(self, index: int, bias: Tensor | None) -> Tensor | None:
        """q's bias, or its gradient, of one chunk, as a view."""
        return None if bias is None else self.chunk_of_q(index, bias.unsqueeze(1)).squeeze(-1)

    def o_weight(self, index: int) -> Tensor:
        """`chunk_of_o` of the weight, as one matrix."""
        return self.chunk_of_o(index, self.w.o).reshape(self.w.o.shape[0], -1)

    def chunk_of_kv(self, index: int, x: Tensor) -> Tensor:
        """KV heads [B, S, m, d] that one chunk of query heads attends to."""
        return x if self.layer.shares_kv else x.chunk(self.layer.chunks, dim=2)[index]

    # Forward

    def received(self, drop_normed: bool) -> Iterator[Inputs]:
        """q, k and v of each chunk of heads, as they arrive; `drop_normed`: it is not needed again."""
        given = self.of_inputs.left(self.normed()[0])
        if drop_normed:
            self.drop_normed()
        return self._projected_alone(given) if self.group is None else self._exchanged(given, self.group)

    def _projected_alone(self, given: Tensor | Operand) -> Iterator[Inputs]:
        layer, w = self.layer, self.w
        if self.k_norm is not None:
            return self._normed_alone(given, self.k_norm)
        rotated = self.rotated(self._projected(given, w.rows(w.q, w.k), w.biases(w.q_bias, w.k_bias)))
        q, k = rotated.split([layer.heads, layer.kv_heads], dim=2)
        v = self._projected(given, w.v, w.v_bias)
        return zip(*(x.chunk(layer.chunks, dim=2) for x in (q, k, v)), strict=True)

    def _normed_alone(self, given: Tensor | Operand, k_norm: HeadNorm) -> Iterator[Inputs]:
        """The same with norms of heads; q, k and v apart, so that none holds what another came from."""
        w, chunks = self.w, self.layer.chunks
        k = self.rotated(k_norm.forward(self._projected(given, w.k, w.k_bias), self.keeps_heads))
        v = self._projected(given, w.v, w.v_bias)
        queries = [self.rotated(self.queries(given, index)) for index in range(chunks)]
        return zip(queries, k.chunk(chunks, dim=2), v.chunk(chunks, dim=2), strict=True)

    def _projected(self, given: Tensor | Operand, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Heads [B, s, n, d] by some rows of q, k and v."""
        return self.split_heads(self.of_inputs.biased(given, weight.t(), bias))

    def queries(self, given: Tensor | Operand, index: int) -> Tensor:
        """A chunk of q [B, s, a/chunks, d] before RoPE."""
        q = self._projected_q(given, index)
        return q if self.q_norm is None else self.q_norm.forward(q, self.keeps_heads)

    def keys(self, given: Tensor | Operand) -> tuple[Tensor, Tensor]:
        """k before RoPE and v, [B, s, n, d] each."""
        w = self.w
        k, v = self._projected(given, w.rows(w.k, w.v), w.biases(w.k_bias, w.v_bias)).chunk(2, dim=2)
        return (k if self.k_norm is None else self.k_norm.forward(k, self.keeps_heads)), v

    def _projected_q(self, given: Tensor | Operand, index: int) -> Tensor:
        bias = self._chunk_of_bias(index, self.w.q_bias)
        flat = None if bias is None else bias.flatten()
        return self._projected(given, self.q_weight(index), flat)

    def _exchanged(self, given: Tensor | Operand, group: dist.ProcessGroup) -> Iterator[Inputs]:
        hops = self.layer.kv_hops
        both = self._send_kv(given, hops.between if hops else group)
        under_way = [self._send_q(given, 0, group)]
        if hops:  # the first hop was behind q's projection
            both = hops.spread(both)
        under_way += [self._send_q(given, index, group) for index in range(1, self.layer.chunks)]
        return self._chunks(both, under_way)

    def _chunks(self, both: Arrival, under_way: list[Arrival]) -> Iterator[Inputs]:
        k, v = both()
        del both  # a message that was copied into the order of the sequence
        for index in range(len(under_way)):
            yield under_way.pop(0)()[0], self.chunk_of_kv(index, k), self.chunk_of_kv(index, v)

    def _send_kv(self, given: Tensor | Operand, group: dist.ProcessGroup) -> Arrival:
        k, v = self.keys(given)
        each = max(self.layer.kv_heads, group.size()) // group.size()
        message = shards_to_fill(k, 2 * each, group)
        own_k, own_v = (self._kv_for_ranks(half) for half in message.split(each, dim=3))
        self.rotated(laid_out_as(own_k, k), into=own_k)
        own_v.copy_(laid_out_as(own_v, v))
        return start_filled(message, [each, each], group, spans.A2A_PRE)

    def _kv_for_ranks(self, message: Tensor) -> Tensor:
        """Keys or values of each chunk of heads and each rank; see `for_ranks`."""
        layer = self.layer
        return for_ranks(message, layer.kv_heads, 1 if layer.shares_kv else layer.chunks)

    def _send_q(self, given: Tensor | Operand, index: int, group: dist.ProcessGroup) -> Arrival:
        q = self.queries(given, index)
        message = shards_to_fill(q, q.shape[2] // self.layer.sp, group)
        to_ranks = for_ranks(message, q.shape[2])
        self.rotated(laid_out_as(to_ranks, q), into=to_ranks)
        return start_filled(message, [message.shape[3]], group, spans.A2A_PRE)

    def attended(self, received: Iterable[Inputs], attend: Callable[[Inputs], Tensor]) -> list[Arrival]:
        """Run attention chunk by chunk and send its outputs back."""
        arrivals = []
        for inputs in received:
            with span(spans.ATTENTION):
                out = attend(inputs)
            arrivals.append(start_gather([out], [out.shape[2] * self.layer.sp], self.group, spans.A2A_POST))
        return arrivals

    def flattened(self, arrivals: list[Arrival]) -> Iterator[Tensor]:
        """Attention's outputs [T, a·d/chunks] as they arrive; `arrivals` is emptied: messages go."""
        while arrivals:
            yield arrivals.pop(0)()[0].reshape(self.num_rows, -1)

    def projected(self, returned: Iterable[Tensor], keep: list[Tensor]) -> Tensor:
        """The residual stream [T, h] after attention, from its outputs, which are put into `keep`."""
        hidden: Tensor | None = None
        for index, out in enumerate(returned):
            keep.append(out)
            weight = self.o_weight(index).t()
            if hidden is None:
                hidden = self.of_inputs.biased(out, weight, self.w.o_bias)
            else:
                self.of_inputs.add_product(hidden, out, weight)
        assert hidden is not None
        return hidden.add_(self.rows)

    def mlp(self, hidden: Tensor) -> LayerMlp:
        """Norm, gate and up."""
        w = self.w
        normed, inverse = fused_layers.norm_forward(hidden, w.mlp_norm, self.layer.eps)
        if self.layer.tile_tokens:
            return LayerMlp(hidden, inverse, normed)
        given = self.of_inputs.left(normed)
        gate, up = (self.of_inputs.product(given, weight.t()) for weight in (w.gate, w.up))
        return LayerMlp(hidden, inverse, normed, gate, up)

    def output(self, mlp: LayerMlp, in_place: bool) -> Tensor:
        """The layer's output [B, s, h]; `in_place`: nobody needs `hidden` any more."""
        w, hidden = self.w, mlp.hidden if in_place else mlp.hidden.clone()
        if mlp.gate is None or mlp.up is None:
            assert mlp.normed is not None
            weights, into = (w.gate, w.up, w.down), mlp.normed if in_place else None
            hidden.add_(tiles_forward(mlp.normed, weights, self.layer.tile_tokens, self.of_inputs, into))
        else:
            self.of_inputs.add_product(hidden, fused_layers.swiglu(mlp.gate, mlp.up), w.down.t())
        return hidden.view(*self.shape, -1)

    # Backward

    def mlp_backward(self, grad: Tensor, mlp: LayerMlp, to: LayerWeights) -> tuple[Tensor, Tensor]:
        """Gradients of the residual stream [T, h] before the MLP, and of the norm's weight."""
        grad_normed = self._tiled_backward(grad, mlp, to) if mlp.gate is None else self._gated(grad, mlp, to)
        mlp.normed = mlp.gate = mlp.up = None
        # Into the gradient that came, which the layer behind made for this one alone: one [T, h] less.
        weight = fused_layers.add_norm_backward(
            grad, grad_normed, mlp.hidden, mlp.inverse, self.w.mlp_norm, self.layer.norm_rows
        )
        return grad, weight

    def _gated(self, grad: Tensor, mlp: LayerMlp, to: LayerWeights) -> Tensor:
        assert mlp.normed is not None and mlp.gate is not None and mlp.up is not None
        product, add_product = self.of_gradients.product, self.of_gradients.add_product
        # Kept beside what it multiplies: one [T, i] then as later, when it is the gradient of up.
        silu = functional.silu(mlp.gate)
        product(grad.t(), silu * mlp.up, to.down)
        grad_gate, grad_up = fused_layers.swiglu_backward(product(grad, self.w.down), mlp.gate, mlp.up, silu)
        product(grad_gate.t(), mlp.normed, to.gate)
        product(grad_up.t(), mlp.normed, to.up)
        return add_product(product(grad_gate, self.w.gate), grad_up, self.w.up)

    def _tiled_backward(self, grad: Tensor, mlp: LayerMlp, to: LayerWeights) -> Tensor:
        assert mlp.normed is not None
        weights = self.w.gate, self.w.up, self.w.down
        grad_normed, sums = tiles_backward(
            mlp.normed, grad, weights, self.layer.tile_tokens, self.layer.products, into=mlp.normed
        )
        for target, total in zip((to.gate, to.up, to.down), sums, strict=True):
            target.copy_(total)
        return grad_normed

    def send_output_gradients(self, grad: Tensor) -> Iterator[Tensor]:
        """Gradients of attention's output as they arrive head-sharded; the first is sent at once."""
        sent = self._output_gradients(grad)
        return with_next_ahead(next(sent), sent)

    def _output_gradients(self, grad: Tensor) -> Iterator[Arrival]:
        # In FP8 a copy, which goes with the last part.
        given = [self.of_gradients.left(grad)] * self.layer.chunks
        for index in range(self.layer.chunks):
            yield self._send_output_gradient(given.pop(), index)

    def _send_output_gradient(self, given: Tensor | Operand, index: int) -> Arrival:
        part = self.of_gradients.product(given, self.o_weight(index))
        return start_scatter([self.split_heads(part)], self.group, spans.A2A_POST)

    def attention_backward(
        self, arriving: Iterator[Tensor], graphs: Iterable[HasRun], o_backward: Callable[[], None]
    ) -> list[Arrival]:
        """Gradients of each chunk's q, and of all k and v, on their way back.

        `o_backward` hides the last of them. Where memory counts it takes attention's outputs before, and what
        is sent is waited for: the last exchange, 20 ms of 8M tokens on 8 GPUs beside minutes of attention.
        """
        if self.away is not None:
            o_backward()
        of_k, of_v, under_way = list[Tensor](), list[Tensor](), list[Arrival]()
        for graph in graphs:
            grad_q, *of_kv = graph.backward(next(arriving))
            # What attention took and gave is gone before gradients are copied into messages.
            del graph
            if self.away is not None:
                under_way = [landed(arrival) for arrival in under_way]
            under_way.append(self._returned([grad_q]))
            del grad_q
            for parts in (of_v, of_k):
                self._take(of_kv.pop(), parts)
        under_way.append(self._kv_returned([self._joined_kv(of_k), self._joined_kv(of_v)]))
        if self.away is not None:
            return [landed(arrival) for arrival in under_way]
        o_backward()
        return under_way

    def _kv_returned(self, grads: list[Tensor]) -> Arrival:
        hops = self.layer.kv_hops
        return hops.collect(grads) if hops else self._returned(grads)

    def _returned(self, grads: list[Tensor]) -> Arrival:
        """Gradients on their way back; `grads` is emptied."""
        if self.group is None:
            return functools.partial(tuple, grads)
        return start_return(grads, self.group, spans.A2A_PRE)

    def _take(self, part: Tensor, parts: list[Tensor]) -> None:
        """Gradients of a chunk's KV heads: summed with those of the chunks before that share them."""
        if parts and self.layer.shares_kv:
            parts[0].add_(part)
        else:
            parts.append(part)

    def _joined_kv(self, parts: list[Tensor]) -> Tensor:
        """Gradients of all KV heads from those of chunks that have their own; `parts` is emptied."""
        joined = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        parts.clear()
        return joined

    def o_backward(self, grad: Tensor, returned: list[Tensor], to: LayerWeights) -> None:
        """Gradient of the output projection; `returned` is emptied."""
        _write_bias(to.o_bias, grad)
        given = self.of_gradients.left(grad.t())
        for index in range(len(returned)):
            self._write(self.chunk_of_o(index, to.o), given, returned.pop(0))

    def qkv_backward(self, under_way: list[Arrival], to: LayerWeights) -> Tensor:
        """Gradient [T, h] of the normed input, and of the three projections; `under_way` is emptied."""
        if self.group is None:
            return self._joint_backward(under_way, to)
        both = under_way.pop()
        if self.layer.kv_hops:
            both = self.layer.kv_hops.give_back(both)
        normed, _ = self.normed()
        product, add_product = self.of_gradients.product, self.of_gradients.add_product
        again = self._given_again(normed)
        grad_normed: Tensor | None = None
        for index in range(self.layer.chunks):
            grad_q = self._q_gradient(under_way.pop(0), again, index)
            self._write(self.chunk_of_q(index, to.q), grad_q.t(), normed)
            _write_bias(self._chunk_of_bias(index, to.q_bias), grad_q)
            weight = self.q_weight(index)
            if grad_normed is None:
                grad_normed = product(grad_q, weight)
            else:
                add_product(grad_normed, grad_q, weight)
            del grad_q
        assert grad_normed is not None
        joint = self._joint_kv(both, again)
        product(joint.t(), normed, to.rows(to.k, to.v))
        _write_bias(to.biases(to.k_bias, to.v_bias), joint)
        return add_product(grad_normed, joint, self.w.rows(self.w.k, self.w.v))

    def _given_again(self, normed: Tensor) -> Tensor | Operand | None:
        """What q and k are projected from once more; None where norms kept what they took, or are not."""
        is_again = self.q_norm is not None and not self.q_norm.kept
        return self.of_inputs.left(normed) if is_again else None

    def _before(self, norm: HeadNorm, given: Tensor | Operand | None, index: int = 0) -> BeforeNorm:
        """What the norm of a chunk of queries, or of the keys, took: kept, or made again."""
        if given is None:
            return norm.kept.pop(0)
        if norm is self.q_norm:
            return norm.again(self._projected_q(given, index))
        return norm.again(self._projected(given, self.w.k, self.w.k_bias))

    def _rotated_back(self, message: Tensor) -> Tensor:
        """Gradient [T, a·d/chunks] of q before RoPE, from a message of its heads."""
        heads = message.shape[0] * message.shape[3]
        grad = message.new_empty(*self.shape, heads, self.layer.head_dim)
        back = for_ranks(message, heads)
        self.rotated(back, -1.0, grad.view(back.shape))
        return grad.view(self.num_rows, -1)

    def _q_gradient(self, arrive: Arrival, again: Tensor | Operand | None, index: int) -> Tensor:
        """Gradient [T, a·d/chunks] of a chunk of q as it was projected."""
        if self.q_norm is None:
            return self._rotated_back(arrive()[0])
        before = self._before(self.q_norm, again, index)  # while the gradient is on its way
        grad = self._rotated_back(arrive()[0])
        del arrive  # the message
        return self.q_norm.backward(grad, before).view(self.num_rows, -1)

    def _joint_kv(self, arrive: Arrival, again: Tensor | Operand | None) -> Tensor:
        """Gradients [T, 2·n·d] of k and v as projected, from messages of their heads; copies are summed."""
        before = None if self.k_norm is None else self._before(self.k_norm, again)
        messages = arrive()
        joint = messages[0].new_empty(*self.shape, 2, self.layer.kv_heads, self.layer.head_dim)
        k, v = (self._kv_for_ranks(message) for message in messages)
        if k.shape[4] > 1:
            k, v = (x.sum(dim=4, keepdim=True) for x in (k, v))
        of_k, of_v = joint.unbind(2)
        self.rotated(k, -1.0, of_k.view(k.shape))
        of_v.view(v.shape).copy_(v)
        if self.k_norm is not None and before is not None:
            of_k.copy_(self.k_norm.backward(of_k, before))
        return joint.view(self.num_rows, -1)

    def _joint_backward(self, under_way: list[Arrival], to: LayerWeights) -> Tensor:
        joint = self._joint_gradient([part for arrive in under_way for part in arrive()])
        # Alone a rank has all gradients of q, k and v in these: 15 GiB of 1.3M tokens of Llama3-8B.
        under_way.clear()
        normed, _ = self.normed()
        self._head_norms_backward(self.split_heads(joint), normed)
        self.of_gradients.product(joint.t(), normed, to.rows(to.q, to.v))
        _write_bias(to.biases(to.q_bias, to.v_bias), joint)
        del normed
        self.drop_normed()
        return self.of_gradients.product(joint, self.w.rows(self.w.q, self.w.v))

    def _head_norms_backward(self, joint: Tensor, normed: Tensor) -> None:
        """Gradients [B, s, a + 2·n, d] of q and k to those before their norms, in place."""
        if self.q_norm is None or self.k_norm is None:
            return
        of_q, of_k, _ = joint.split([self.layer.heads, *[self.layer.kv_heads] * 2], dim=2)
        again = self._given_again(normed)
        for index, part in enumerate(of_q.chunk(self.layer.chunks, dim=2)):
            part.copy_(self.q_norm.backward(part, self._before(self.q_norm, again, index)))
        of_k.copy_(self.k_norm.backward(of_k, self._before(self.k_norm, again)))

    def _write(self, into: Tensor, a: Tensor | Operand, b: Tensor) -> None:
        """a · b to a chunk of a weight's gradient, which may be strided."""
        if into.dim() == 2:
            self.of_gradients.product(a, b, into)
        else:
            into.copy_(self.of_gradients.product(a, b).view(into.shape))

    def _joint_gradient(self, parts: list[Tensor]) -> Tensor:
        """Gradients of projections side by side, the last of v, the others before RoPE: [T, (…)·d]."""
        sizes = [x.shape[2] for x in parts]
        joint = parts[0].new_empty(*self.shape, sum(sizes), self.layer.head_dim)
        *rotary, last = joint.split(sizes, dim=2)
        for x, into in zip(parts, rotary, strict=False):
            self.rotated(x, -1.0, into)
        last.copy_(parts[-1])
        return joint.view(self.num_rows, -1)

    def write_norms(self, to: LayerWeights, of_norm: Tensor, of_mlp_norm: Tensor) -> None:
        """Gradients of all norms' weights."""
        into, grads = [to.norm, to.mlp_norm], [of_norm, of_mlp_norm]
        for norm, target in ((self.q_norm, to.q_norm), (self.k_norm, to.k_norm)):
            if norm is not None and target is not None:
                into.append(target)
                grads.append(norm.weight_gradient())
        torch._foreach_copy_(into, grads)


def _write_bias(into: Tensor | None, grad: Tensor) -> None:
    """A bias's gradient, which may be strided: the sum over rows [T, n]; nothing where there is none."""
    if into is not None:
        into.copy_(grad.sum(0).view(into.shape))


class Away(NamedTuple):
    """A layer's input that waits on the host."""

    stash: HostOffload
    number: int

    def bring(self) -> Tensor:
        """It on the device; who drops it may ask again."""
        return self.stash.bring(self.number)

    def finish(self) -> None:
        """It is not asked for again, and that of the layer before comes while this one ends."""
        self.stash.release(self.number)
        self.stash.ahead(self.number - 1)
