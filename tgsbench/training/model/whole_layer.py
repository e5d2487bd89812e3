"""A decoder layer of the kind of Llama's as one autograd function over one flat parameter.

Autograd of torch and a checkpoint that watches every op cost more host time than a layer's kernels: 7 ms a
layer. Here the layer knows what its backward needs: it launches what that takes and nothing else, adds
products to what they are summed with, and has one parameter for FSDP to cast, gather and reduce. Its
all-to-alls are under way while the next product or the attention of other heads runs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tgsbench.schema import spans
from tgsbench.schema.preset import Checkpointing
from tgsbench.training.attention.attention import UlyssesAttention
from tgsbench.training.attention.kept import AttentionGraph, KeptResults, attend_again, attend_keeping
from tgsbench.training.attention.windowed import Own
from tgsbench.training.model import fused_layers
from tgsbench.training.model.layer_pass import Away, Inputs, LayerMlp, LayerPass
from tgsbench.training.model.layer_weights import LayerWeights, parts_of
from tgsbench.training.model.products import LayerProducts
from tgsbench.training.model.tiled_mlp import TILE_TOKENS
from tgsbench.training.parallel.kv_hops import KvHops
from tgsbench.training.parallel.offload import HostOffload
from tgsbench.training.parallel.tracing import span


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of a model have in common."""

    config: Any
    """The model's configuration in transformers."""
    attention: UlyssesAttention
    tiled: bool
    """Does the MLP run in tiles of the sequence?"""
    products: LayerProducts
    head_parts: int = 1
    kv_hops: KvHops | None = None


class WholeLayer(nn.Module):
    """Takes the place of a transformers layer that was built on the meta device."""

    def __init__(self, layer: nn.Module, options: LayerOptions, window: int = 0) -> None:
        super().__init__()
        config, attention = options.config, options.attention
        sizes = {name: parameter.shape for name, parameter in layer.named_parameters()}
        self.names = parts_of(set(sizes))
        self.shapes = [sizes[name] for name in self.names.values()]
        numel = sum(map(math.prod, self.shapes))
        self.flat = nn.Parameter(torch.empty(numel, device="meta"))
        self.checkpointing: Checkpointing = "none"
        self.kept_ops: frozenset[Any] = frozenset()
        self.stash: HostOffload | None = None
        self.eps: float = config.rms_norm_eps
        self.tile_tokens = TILE_TOKENS if options.tiled else 0
        self.norm_rows = 8 * self.tile_tokens
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim: int = self.shapes[0][0] // self.heads
        self.window = window
        self.has_rope = bool(getattr(layer.self_attn, "use_rope", True))
        """Without: SmolLM3 has every fourth layer so."""
        self.products = options.products
        self.attention = attention
        self.sp = attention.group.size() if attention.group is not None else 1
        self.chunks = options.head_parts
        self.kv_hops = options.kv_hops
        self.shares_kv = self.kv_heads <= self.sp
        """Do all chunks of a rank's query heads attend to one KV head?"""

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """hidden_states [B, s, h] -> the same."""
        stash = self.stash if torch.is_grad_enabled() else None
        out: Tensor = _Layer.apply(hidden_states, self.flat, *position_embeddings, self, stash)  # type: ignore[no-untyped-call]
        return out

    def parts(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names within the layer, and views of a whole flat tensor."""
        numels = [math.prod(shape) for shape in self.shapes]
        pieces = zip(self.names.values(), flat.split(numels), self.shapes, strict=True)
        yield from ((name, piece.view(shape)) for name, piece, shape in pieces)

    def part_shapes(self) -> Iterator[tuple[str, torch.Size]]:
        """Names within the layer and shapes, in the order of the flat parameter."""
        yield from zip(self.names.values(), self.shapes, strict=True)

    def weights(self, flat: Tensor) -> LayerWeights:
        """Views of the parameter or of its gradient."""
        views = (view for _, view in self.parts(flat))
        return LayerWeights(flat, **dict(zip(self.names, views, strict=True)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One chunk's attention; its inputs as they are after the all-to-alls."""
        return self.attention.attend(q, k, v, self.head_dim**-0.5, Own(self.window))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        flat: Tensor,
        cos: Tensor,
        sin: Tensor,
        layer: WholeLayer,
        stash: HostOffload | None,
    ) -> Tensor:
        run, mode = LayerPass(layer, x, flat, cos, sin), layer.checkpointing
        run.keeps_heads = mode == "none"
        results: list[KeptResults] = []
        graphs: list[AttentionGraph] = []
        inputs: list[Inputs] = []
        returned: list[Tensor] = []

        def attend(own: Inputs) -> Tensor:
            if mode == "full":
                return layer.attend(*own)
            if mode == "none":
                return _graphed(layer, own, graphs)
            inputs.append(own)
            results.append(KeptResults(layer.kept_ops))
            return attend_keeping(layer.attend, *own, results[-1])

        arrivals = run.attended(run.received(drop_normed=mode != "none"), attend)
        with_attention = run.projected(run.flattened(arrivals), returned)
        if mode == "full":
            returned.clear()
        of_norm = run.normed() if mode == "none" else ()
        with span(spans.MLP):
            mlp = run.mlp(with_attention)
            out = run.output(mlp, in_place=mode != "none")
        saved: list[Tensor | None] = [*returned]
        if mode == "selective" and run.group is not None:
            saved += itertools.chain.from_iterable(inputs)
        if mode == "none":
            saved += [*of_norm, mlp.hidden, mlp.inverse, mlp.normed, mlp.gate, mlp.up, *run.kept_heads()]
        ctx.layer, ctx.results, ctx.graphs = layer, results, graphs
        ctx.away = Away(stash, stash.keep(x)) if stash else None
        ctx.save_for_backward(flat, cos, sin, *saved, *([] if stash else [x]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        layer: WholeLayer = ctx.layer
        away: Away | None = ctx.away
        flat, cos, sin, *saved = ctx.saved_tensors
        run = LayerPass(layer, away.bring() if away else saved.pop(), flat, cos, sin)
        run.away = away if layer.checkpointing == "full" else None
        run.keeps_heads = not layer.tile_tokens
        to = layer.weights(torch.empty_like(flat))
        mlp, returned, rest = _until_mlp(run, saved, ctx.graphs)
        grad, of_mlp_norm = run.mlp_backward(grads[0].flatten(0, 1), mlp, to)
        del mlp
        arriving = run.send_output_gradients(grad)
        graphs: Iterable[AttentionGraph] = _taken(ctx.graphs)
        if layer.checkpointing == "selective":
            with span(spans.RECOMPUTE):
                inputs = zip(*[iter(rest)] * 3, strict=True) if rest else run.received(drop_normed=False)
                graphs = map(functools.partial(_replayed, layer), inputs, ctx.results)
        under_way = run.attention_backward(arriving, graphs, lambda: run.o_backward(grad, returned, to))
        grad_normed = run.qkv_backward(under_way, to)
        inverse = run.drop_normed()
        if away:
            away.finish()
        grad_x, of_norm = fused_layers.norm_backward(grad_normed, run.rows, inverse, run.w.norm)
        run.write_norms(to, of_norm, of_mlp_norm)
        ctx.graphs = ctx.results = None
        return grad_x.add_(grad).view(*run.shape, -1), to.flat, None, None, None, None


def _until_mlp(
    run: LayerPass, saved: list[Any], graphs: list[AttentionGraph]
) -> tuple[LayerMlp, list[Tensor], list[Tensor]]:
    """What the MLP's backward needs, attention's outputs, and what else was saved."""
    layer = run.layer
    if layer.checkpointing == "full":
        with span(spans.RECOMPUTE):
            return *_again(run, graphs), []
    returned, rest = saved[: layer.chunks], saved[layer.chunks :]
    if layer.checkpointing == "none":
        of_norm, of_mlp, of_heads = rest[:2], rest[2:7], rest[7:]
        run.hold_normed(*of_norm)
        run.hold_heads(of_heads)
        return LayerMlp(*of_mlp), returned, []
    with span(spans.RECOMPUTE):
        return run.mlp(run.projected(returned, [])), returned, rest


def _taken(graphs: list[AttentionGraph]) -> Iterator[AttentionGraph]:
    """Graphs in their order; who is through with one frees its inputs."""
    while graphs:
        yield graphs.pop(0)


def _graphed(layer: WholeLayer, inputs: Inputs, graphs: list[AttentionGraph]) -> Tensor:
    """Attention whose graph is kept."""
    graphs.append(attend_again(layer.attend, *inputs))
    return graphs[-1].out.detach()


def _replayed(layer: WholeLayer, inputs: Inputs, kept: KeptResults) -> AttentionGraph:
    return attend_again(layer.attend, *inputs, kept)


def _again(run: LayerPass, graphs: list[AttentionGraph]) -> tuple[LayerMlp, list[Tensor]]:
    """The forward once more, up to the last product: what the MLP takes, and attention's outputs."""
    layer, returned = run.layer, list[Tensor]()
    received = run.received(drop_normed=run.away is not None)
    arrivals = run.attended(received, lambda inputs: _graphed(layer, inputs, graphs))
    del received
    hidden = run.projected(run.flattened(arrivals), returned)
    run.let_go()
    return run.mlp(hidden), returned
