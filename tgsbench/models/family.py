"""What the rest of tgsbench asks of a model family: sizes, FLOPs, widths and a configuration, from a shape.

A family is one module of this package (see `registry`); what needs torch is in the module that the family
names as `torch_module`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from tgsbench.schema.preset import Checkpointing, ModelShape


class Weight(NamedTuple):
    """Weight matrices of one size: each makes `out_width` values of a token's `in_width`."""

    out_width: int
    in_width: int
    num: int = 1
    """How many a layer has: one, or one for each expert."""
    used: int = 1
    """How many of them each token is multiplied by."""

    @property
    def size(self) -> int:
        """Parameters of all of them."""
        return self.num * self.out_width * self.in_width

    @property
    def active(self) -> int:
        """Parameters that each token is multiplied by."""
        return self.used * self.out_width * self.in_width


class Parameters(Struct, frozen=True, kw_only=True):
    """How many parameters a model has, and where."""

    layer: int
    """One decoder layer, every expert included."""
    embedding: int
    head: int
    """Output projection; 0 where it is tied to the embedding."""
    total: int
    active: int
    """Those that take part in one token's forward: without the experts that it is not sent to."""


class Dims(Struct, frozen=True, kw_only=True, dict=True):
    """Widths of a decoder, per token: what the planner needs to count products, bytes and memory."""

    num_layers: int
    hidden: int
    vocab: int
    tied: bool = False
    num_parameters: int
    query_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Values between the matrices of the MLP."""
    mlp_matrices: int = 3
    """A plain MLP has two, a gated one three."""
    norm_width: int
    """Values that a layer normalises: twice `hidden` for a norm before attention and one before the MLP."""
    attention: tuple[Weight, ...]
    """A layer's projections around attention, in the order in which they run."""
    mlp: tuple[Weight, ...]
    """A layer's products after attention; the last one ends the layer."""

    @cached_property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return sum(weight.size for weight in self.attention) + self.mlp_weights

    @cached_property
    def mlp_weights(self) -> int:
        """Weights of one layer's products after attention."""
        return sum(weight.size for weight in self.mlp)

    @property
    def embedding_weights(self) -> int:
        """Weights of the token embedding, and of the head where it is not tied."""
        return self.vocab * self.hidden


class ModelFamily(Protocol):
    """One family of decoders; every method takes a shape and is pure."""

    name: str
    """What a shape calls it: `family = "llama"`."""
    torch_module: str
    """The module whose BUILDER makes the model; imported by ranks only."""

    def __hash__(self) -> int: ...

    def parameters(self, shape: ModelShape) -> Parameters:
        """Parameters by place, in total and active."""
        ...

    def dims(self, shape: ModelShape) -> Dims:
        """Widths for the planner."""
        ...

    def forward_flops(self, shape: ModelShape, attended_len: float) -> float:
        """FLOPs per token of one forward pass, causal: attention over half the square."""
        ...

    def recompute_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """FLOPs per token of what the backward runs again under a checkpoint policy."""
        ...

    def xtuner_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """FLOPs per token of a training step as XTuner's own formula counts them."""
        ...

    def local_kv_heads(self, shape: ModelShape, sp: int) -> int:
        """KV heads that one of `sp` ranks attends with under Ulysses."""
        ...

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """The config.json of transformers for this shape, with positions for at least `seq_len` tokens."""
        ...


def attention_weights(hidden: int, query_heads: int, kv_heads: int, head_dim: int) -> tuple[Weight, ...]:
    """Query, key, value and output projections of grouped-query attention."""
    queries, keys = query_heads * head_dim, kv_heads * head_dim
    return Weight(queries, hidden), Weight(keys, hidden), Weight(keys, hidden), Weight(hidden, queries)


def mlp_weights(hidden: int, intermediate: int, matrices: int = 3) -> tuple[Weight, ...]:
    """Matrices of a dense MLP, the down projection last; a gated one has three."""
    return (Weight(intermediate, hidden),) * (matrices - 1) + (Weight(hidden, intermediate),)
