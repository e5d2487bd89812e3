"""A whole layer that takes its sequence in chunks: what it computes exists for one of them at a time.

The forward takes chunks from the first to the last. Each projects its rows, trades heads, attends to its own
keys and to those of the chunks before it, which come from the host, and goes through the MLP before the next
one begins; where the layer's input waits on the host too, its output is written in its place. The backward
takes them from the last to the first, so that one pass gives a chunk's gradients of q, of k and v (which
later chunks have added to), and of its rows. Gradients of weights are summed over the chunks in fp32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tgsbench.schema import spans
from tgsbench.training.attention.blocks import Saved
from tgsbench.training.attention.time_ring import TimeRing
from tgsbench.training.model import fused_layers
from tgsbench.training.model.layer_pass import LayerPass
from tgsbench.training.model.whole_layer import LayerOptions, WholeLayer
from tgsbench.training.parallel.offload import HostOffload
from tgsbench.training.parallel.tracing import span
from tgsbench.training.parallel.ulysses import Arrival, start_gather

Item = TypeVar("Item")


class ChunkedLayer(WholeLayer):
    """Takes the place of a transformers layer, see `WholeLayer`; what its checkpoint keeps is on the host."""

    def __init__(self, layer: nn.Module, options: LayerOptions, ring: TimeRing, window: int) -> None:
        super().__init__(layer, options, window)
        self.ring = ring

    @property
    def keeps_exchanged(self) -> bool:
        """Is what the all-to-alls brought kept for the backward?"""
        return self.checkpointing == "selective" and self.attention.group is not None

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """hidden_states [B, s, h] -> the same, in its memory where that is on the host."""
        is_trained = torch.is_grad_enabled()
        out: Tensor = _ChunkedLayer.apply(hidden_states, self.flat, *position_embeddings, self, is_trained)  # type: ignore[no-untyped-call]
        return out


class ChunkPass(LayerPass):
    """One layer's weights and positions for one chunk, T = B · c rows; its exchanges go on side by side."""

    def start_queries(self, normed: Tensor) -> Arrival:
        """This rank's query heads [B, C, a, d] over the chunk of all ranks."""
        given = self.of_inputs.left(normed)
        if self.group is not None:
            return self._send_q(given, 0, self.group)
        return functools.partial(tuple, [self.rotated(self.queries(given, 0))])

    def start_keys(self, normed: Tensor) -> Arrival:
        """Its keys and values, [B, C, m, d] each, or what `arrived` makes them of."""
        given, hops = self.of_inputs.left(normed), self.layer.kv_hops
        if self.group is not None:
            return self._send_kv(given, hops.between if hops else self.group)
        k, v = self.keys(given)
        return functools.partial(tuple, [self.rotated(k), v])

    def arrived(self, keys: Arrival) -> Tensor:
        """What `start_keys` sent as [2, B · C, m, d]; of two hops the second is made here."""
        hops = self.layer.kv_hops
        return torch.stack([x.flatten(0, 1) for x in (hops.spread(keys) if hops else keys)()])

    def returned(self, out: Tensor) -> Tensor:
        """Attention's output [B · C, a, d] of this rank's heads as all heads of its rows [T, a · d]."""
        shards = out.unflatten(0, (self.shape[0], -1))
        (back,) = start_gather([shards], [self.layer.heads], self.group, spans.A2A_POST)()
        return back.reshape(self.num_rows, -1)


@dataclass
class _Kept:
    """Numbers of what waits on the host of one chunk; None of what does not."""

    rows: int | None = None
    """The layer's input [B, c, h]."""
    keys: int | None = None
    """Keys and values [2, B · C, m, d] of this rank's heads."""
    queries: int | None = None
    out: int | None = None
    """Attention's output of this rank's heads."""
    lse: int | None = None
    returned: int | None = None
    """The output of all heads for this rank's rows, where ranks trade them."""


_NAMES = [each.name for each in dataclasses.fields(_Kept)]
"""The rows first."""


class _Chunks:
    """A layer's weights, positions and plans in one pass over its chunks, and what of them is on the host."""

    def __init__(
        self, layer: ChunkedLayer, flat: Tensor, cos: Tensor, sin: Tensor, kept: list[_Kept]
    ) -> None:
        self.layer, self.ring, self.host, self.kept = layer, layer.ring, layer.ring.host, kept
        self._flat, self._cos, self._sin = flat, cos, sin
        self._size = cos.shape[1] // self.ring.num_chunks
        self.plans = self.ring.plans(layer.attention.documents, cos.shape[0], layer.window)
        self.scale = layer.head_dim**-0.5

    def part(self, whole: Tensor, chunk: int) -> Tensor:
        """A chunk [B, c, …] of [B, s, …], a view."""
        return whole[:, chunk * self._size : (chunk + 1) * self._size]

    def begin(self, chunk: int, rows: Tensor) -> ChunkPass:
        """The pass of one chunk over its rows [B, c, h]."""
        cos, sin = self.part(self._cos, chunk), self.part(self._sin, chunk)
        return ChunkPass(self.layer, rows, self._flat, cos, sin)

    @property
    def keys(self) -> list[int]:
        """Numbers of the chunks' keys and values so far."""
        return [one.keys for one in self.kept if one.keys is not None]

    def attend(self, chunk: int, q: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Output [B · C, a, d] and log-sum-exp of a chunk's queries."""
        with span(spans.ATTENTION):
            return self.ring.forward(self.plans[chunk], q, own, self.keys, self.scale)

    def forward(self, chunk: int, rows: Tensor, is_trained: bool) -> Tensor:
        """One chunk's output [B, c, h]; what its backward and later chunks need goes to the host."""
        layer, host, here = self.layer, self.host, self.kept[chunk]
        run = self.begin(chunk, rows)
        own, q = _exchanged(run)
        here.keys = host.keep(own)
        out, lse = self.attend(chunk, q, own)
        returned = run.returned(out)
        if is_trained and layer.checkpointing == "selective":
            here.out, here.lse = host.keep(out), host.keep(lse)
            if layer.keeps_exchanged:
                here.queries, here.returned = host.keep(q), host.keep(returned)
        del q, own, out, lse
        hidden = run.projected(_taken(returned), [])
        with span(spans.MLP):
            return run.output(run.mlp(hidden), in_place=True)


def _exchanged(run: ChunkPass) -> tuple[Tensor, Tensor]:
    """Keys and values [2, B · C, m, d] and queries [B · C, a, d] of a chunk."""
    normed, _ = run.normed()
    keys, queries = run.start_keys(normed), run.start_queries(normed)
    run.drop_normed()
    del normed
    return run.arrived(keys), queries()[0].flatten(0, 1)


class _ChunkedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, flat: Tensor, cos: Tensor, sin: Tensor, layer: ChunkedLayer, is_trained: bool
    ) -> Tensor:
        chunks = _Chunks(layer, flat, cos, sin, [])
        is_away, host = layer.stash is not None and is_trained, chunks.host
        # The input's memory without its history, or autograd would take it for changed.
        out = x.data if is_away else torch.empty_like(x)
        for chunk in range(layer.ring.num_chunks):
            rows = chunks.part(x, chunk)
            here = _Kept(host.keep(rows.contiguous()) if is_away else None)
            chunks.kept.append(here)
            result = chunks.forward(chunk, rows, is_trained)
            if here.rows is not None:
                host.wait_until_left(here.rows)
            chunks.part(out, chunk).copy_(result)
        if not (is_trained and layer.keeps_exchanged):
            for one in chunks.kept:
                _release(host, one, ["keys"])
        ctx.layer, ctx.kept = layer, chunks.kept
        ctx.save_for_backward(flat, cos, sin, *([] if is_away else [x]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        layer: ChunkedLayer = ctx.layer
        flat, cos, sin, *saved = ctx.saved_tensors
        chunks = _Chunks(layer, flat, cos, sin, ctx.kept)
        back = _Backward(chunks, saved[0] if saved else None, grads[0], torch.empty_like(flat))
        if not layer.keeps_exchanged:
            with span(spans.RECOMPUTE):
                back.make_keys()
        for chunk in reversed(range(layer.ring.num_chunks)):
            back.take(chunk)
        return grads[0], back.of_weights(), None, None, None, None


class _Backward:
    """The backward of a layer, chunk by chunk; gradients [B, s, h] of its output become the input's."""

    def __init__(self, chunks: _Chunks, x: Tensor | None, grad: Tensor, flat: Tensor) -> None:
        self._chunks, self._host, self._x, self._grad = chunks, chunks.host, x, grad
        self._to = chunks.layer.weights(flat)
        self._sums: list[int | None] = [None] * len(chunks.kept)
        self.total = torch.zeros_like(flat, dtype=torch.float32)

    def of_weights(self) -> Tensor:
        """The flat gradient, when all chunks are through."""
        return self._to.flat.copy_(self.total)

    def make_keys(self) -> None:
        """Keys and values of all chunks again: the last one's queries see them all."""
        for chunk, one in enumerate(self._chunks.kept):
            run = self._begin(chunk)
            self._ahead(chunk + 1, ["rows"])
            one.keys = self._host.keep(run.arrived(run.start_keys(run.normed()[0])))

    def take(self, chunk: int) -> None:
        """One chunk: its share of the gradients of weights, and its gradient of the input."""
        one, to = self._chunks.kept[chunk], self._to
        run, kept = self._begin(chunk), {name: self._bring(getattr(one, name)) for name in _NAMES[1:]}
        self._ahead(chunk - 1, _NAMES)
        with span(spans.RECOMPUTE):
            graph, outputs = self._graph(chunk, run, kept), list[Tensor]()
            returned = kept.pop("returned")
            if returned is None:
                returned = run.returned(graph.out)
            mlp = run.mlp(run.projected(_taken(returned), outputs))
            del returned
        grad = self._chunks.part(self._grad, chunk)
        of_hidden, of_mlp_norm = run.mlp_backward(grad.flatten(0, 1), mlp, to)
        del mlp
        arriving = run.send_output_gradients(of_hidden)
        graphs = _taken(graph)
        del graph
        under_way = run.attention_backward(arriving, graphs, lambda: run.o_backward(of_hidden, outputs, to))
        grad_normed = run.qkv_backward(under_way, to)
        grad_x, of_norm = fused_layers.norm_backward(grad_normed, run.rows, run.drop_normed(), run.w.norm)
        run.write_norms(to, of_norm, of_mlp_norm)
        self.total.add_(to.flat)
        grad.copy_(grad_x.add_(of_hidden).view_as(grad))
        _release(self._host, one, _NAMES)

    def _begin(self, chunk: int) -> ChunkPass:
        """The pass of a chunk over its rows, from the host or from the layer's input."""
        rows = self._bring(self._chunks.kept[chunk].rows)
        if rows is None:
            assert self._x is not None
            rows = self._chunks.part(self._x, chunk)
        return self._chunks.begin(chunk, rows)

    def _ahead(self, chunk: int, names: Sequence[str]) -> None:
        """Start what waits of the chunk whose turn is next, so that it comes beside this one's work."""
        if not 0 <= chunk < len(self._chunks.kept):
            return
        for name in names:
            if (number := getattr(self._chunks.kept[chunk], name)) is not None:
                self._host.ahead(number)

    def _graph(self, chunk: int, run: ChunkPass, kept: dict[str, Tensor | None]) -> _Graph:
        """Attention of a chunk as it was in the forward: kept, or run again."""
        own, q, out, lse = (kept.pop(name) for name in ("keys", "queries", "out", "lse"))
        assert own is not None
        if q is None:
            q = run.start_queries(run.normed()[0])()[0].flatten(0, 1)
        if out is None or lse is None:
            out, lse = self._chunks.attend(chunk, q, own)
        return _Graph(self._chunks, chunk, self._sums, Saved(q, own[0], own[1], out, lse), run.shape[0])

    def _bring(self, number: int | None) -> Tensor | None:
        return None if number is None else self._host.bring(number)


@dataclass
class _Graph:
    """Attention of a chunk's queries that has run; see `AttentionGraph`."""

    chunks: _Chunks
    chunk: int
    sums: list[int | None]
    saved: Saved
    num_rows: int

    @property
    def out(self) -> Tensor:
        """[B · C, a, d]."""
        return self.saved.out

    def backward(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q by all keys, of the chunk's keys and values by all queries: [B, C, …, d]."""
        chunks = self.chunks
        grad_q, of_own = chunks.ring.backward(
            chunks.plans[self.chunk],
            grad.flatten(0, 1).contiguous(),
            self.saved,
            chunks.keys,
            self.sums,
            chunks.scale,
        )
        return tuple(x.to(grad.dtype).unflatten(0, (self.num_rows, -1)) for x in (grad_q, *of_own))


def _taken(*items: Item) -> Iterator[Item]:
    """Each once; who is through with one frees it."""
    left = list(items)
    while left:
        yield left.pop(0)


def _release(host: HostOffload, one: _Kept, names: Sequence[str]) -> None:
    """Free the host buffers of these; nobody asks for them again."""
    for name in names:
        if (number := getattr(one, name)) is not None:
            host.release(number)
            setattr(one, name, None)
