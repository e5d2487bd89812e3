"""What the rest of tgsbench asks of a model family: sizes, FLOPs, widths and a configuration, from a shape.

A family is one module of this package (see `registry`); what needs torch is in the module that the family
names as `torch_module`. `decoder.Decoder` answers everything from the layers that a family describes.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from tgsbench.schema.model import ModelShape

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.preset import Checkpointing


NO_ORACLE = "no decoder in fp64 is written yet that its training could be held against"
"""Why a family is counted and planned alone whose layers need nothing that the others do not have."""


class Weight(NamedTuple):
    """Weight matrices of one size: each makes `out_width` values of a token's `in_width`."""

    out_width: int
    in_width: int
    num: int = 1
    """How many a layer has: one, or one for each expert."""
    used: int = 1
    """How many of them each token is multiplied by."""
    share: float = 1.0
    """Share of the model's layers that have it, in the average layer of `Dims`."""

    @property
    def size(self) -> float:
        """Parameters of all of them; in the average layer where not every layer has it."""
        return self.num * self.out_width * self.in_width * self.share

    @property
    def active(self) -> float:
        """Parameters that each token is multiplied by; in the average layer likewise."""
        return self.used * self.out_width * self.in_width * self.share


class LayerGroup(Struct, frozen=True, kw_only=True):
    """Layers of one kind: their products, their attention, and what else they hold."""

    num: int
    attention: tuple[Weight, ...]
    """Projections around the attention, in the order in which they run."""
    mlp: tuple[Weight, ...]
    """Products after attention, in the order in which they run."""
    vectors: tuple[int, ...]
    """Lengths of the parameters that belong to no product: norms, biases, sinks."""
    expert_vectors: tuple[int, ...] = ()
    """The same of each expert: its biases."""
    experts_are_transposed: bool = False
    """Is an expert's weight held as inputs by outputs?"""
    query_heads: int = 0
    """0: there is no softmax attention."""
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    cached: int = 0
    """Values that a token leaves behind for later ones: keys and values, or the latent of both."""
    window: int = 0
    """Tokens that attention sees, itself included; 0: all before."""
    sinks: bool = False
    """Does a score without a value take part in each softmax?"""
    between: int = 0
    """Values between the matrices of the MLP, of all experts that a token is sent to."""
    scan_flops: float = 0.0
    """FLOPs per token of a linear recurrence, forward, whatever the length."""
    scan_values: float = 0.0
    """Values per token that its kernels read and write, forward; those in fp32 count twice."""
    traded: tuple[int, int] = (0, 0)
    """Values per token of its all-to-alls under Ulysses: what the recurrence takes, and what it gives."""
    runs_last_again: bool = False
    """Does a checkpoint run the last product again, since something behind it needs its result?"""

    def exchange(self, kv_heads: int) -> tuple[int, int]:
        """Values per token of the layer's all-to-alls, before and after attention."""
        if not self.query_heads:
            return self.traded
        before = self.query_heads * self.key_dim + kv_heads * (self.key_dim + self.value_dim)
        return before, self.query_heads * self.value_dim

    @property
    def experts(self) -> list[Weight]:
        """Weights that each expert has."""
        return [weight for weight in self.mlp if weight.num > 1]

    @property
    def matrices(self) -> list[Weight]:
        """Weights that a layer has once each."""
        return [weight for weight in self.attention + self.mlp if weight.num == 1]

    @property
    def num_experts(self) -> int:
        """Of one such layer."""
        return max((weight.num for weight in self.experts), default=0)

    @property
    def parameters(self) -> int:
        """Of one such layer."""
        return int(self.weights) + sum(self.vectors) + self.num_experts * sum(self.expert_vectors)

    @property
    def idle(self) -> int:
        """Parameters of one such layer that a token does not meet."""
        num_idle = max((weight.num - weight.used for weight in self.experts), default=0)
        weights = sum(weight.size - weight.active for weight in self.experts)
        return int(weights) + num_idle * sum(self.expert_vectors)

    def cut_values(self, ranks: int, ep: int = 1) -> int:
        """Values that FSDP cuts over so many ranks, padding included; shared-out experts not counted."""
        matrices = sum(cut_length(weight.out_width, ranks) * weight.in_width for weight in self.matrices)
        experts = self.cut_expert_values(ranks, self.num_experts) if ep == 1 else 0
        return matrices + sum(cut_length(length, ranks) for length in self.vectors) + experts

    def cut_expert_values(self, ranks: int, held: int) -> int:
        """The same of so many of its experts.

        They are cut along each one's rows where they are fewer than the ranks and those divide.
        """
        sizes = [weight[:2][:: -1 if self.experts_are_transposed else 1] for weight in self.experts]
        sizes += [(length, 1) for length in self.expert_vectors]
        is_whole = [held < ranks and rows % ranks == 0 for rows, _ in sizes]
        padded = cut_length(held, ranks)
        return sum(
            (held if whole else padded) * rows * width
            for whole, (rows, width) in zip(is_whole, sizes, strict=True)
        )

    @property
    def products(self) -> float:
        """Forward FLOPs per token of the matrix products."""
        return 2.0 * sum(weight.active for weight in self.attention + self.mlp)

    @property
    def weights(self) -> float:
        """Weights of one of these layers' matrices."""
        return sum(weight.size for weight in self.attention + self.mlp)

    @property
    def expert_weights(self) -> float:
        """Of these, those of the experts that tokens are sent to."""
        return sum(weight.size for weight in self.experts)

    @property
    def last_product(self) -> float:
        """Forward FLOPs per token of the product that a checkpoint does not run again."""
        return 0.0 if self.runs_last_again else 2.0 * self.mlp[-1].active

    def mixing(self, attended_len: float, causal: bool = True) -> float:
        """Forward FLOPs per token of QKᵀ, PV and the recurrence."""
        pairs = 2.0 * self.query_heads * (self.key_dim + self.value_dim)
        return pairs * seen_keys(attended_len, self.window, causal) + self.scan_flops


def cut_length(length: int, ranks: int) -> int:
    """What so many ranks hold together of a dimension that FSDP cuts: a multiple of them."""
    return -(-length // ranks) * ranks


def seen_keys(attended_len: float, window: int, causal: bool = True) -> float:
    """Keys that a query sees on average: S/2 of S, or W − W²/2S where a window of W is shorter.

    Not causal: all S, or W. Exact but for half a key: causal sums are S(S + 1)/2 and W·S − W(W − 1)/2.
    """
    if not window or window >= attended_len:
        return attended_len / 2 if causal else attended_len
    return window - window * window / (2 * attended_len) if causal else float(window)


class Parameters(Struct, frozen=True, kw_only=True):
    """How many parameters a model has, and where."""

    layer: int
    """One decoder layer, every expert included; of several kinds the most frequent."""
    embedding: int
    head: int
    """Output projection; 0 where it is tied to the embedding."""
    total: int
    active: int
    """Those that take part in one token's forward: without the experts that it is not sent to."""


class Dims(Struct, frozen=True, kw_only=True, dict=True):
    """Widths of a decoder, per token: what the planner needs to count products, bytes and memory.

    Where layers differ this is the average layer, whose products times num_layers are the model's; `groups`
    has the layers as they are.
    """

    num_layers: int
    hidden: int
    vocab: int
    tied: bool = False
    num_parameters: int
    query_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    """Width of a value head; 0: head_dim."""
    intermediate: int
    """Values between the matrices of the MLP, of all experts that a token is sent to."""
    mlp_matrices: int = 3
    """A plain MLP has two, a gated one three."""
    gate_kept: int = 0
    """Tensors of width `intermediate` that a gate of the family's own keeps beside those of SwiGLU."""
    norm_width: int
    """Values that a layer normalises: twice `hidden` for a norm before attention and one before the MLP."""
    head_norm_width: int = 0
    """Of these, values of queries and keys: rotated afterwards, so that nobody keeps what the norm gave."""
    attention: tuple[Weight, ...]
    """A layer's projections around attention, in the order in which they run."""
    mlp: tuple[Weight, ...]
    """A layer's products after attention; the last one ends the layer."""
    again: tuple[Weight, ...] | None = None
    """What a checkpoint that stops early runs again; None: all products but the last."""
    routed: int = 0
    """Values of a token's copies that go to its experts; as many come back."""
    groups: tuple[LayerGroup, ...] = ()
    recurrent: tuple[bool, ...] = ()
    """Of hybrids, which layers have linear attention, first to last."""

    @cached_property
    def has_recurrence(self) -> bool:
        """Are some layers linear attention?"""
        return any(group.scan_flops for group in self.groups)

    @cached_property
    def layer_weights(self) -> float:
        """Weights of one layer's matrices."""
        return sum(weight.size for weight in self.attention) + self.mlp_weights

    @cached_property
    def largest_layer_weights(self) -> float:
        """Weights of the largest layer's matrices: what is gathered and reduced at once."""
        return max((group.weights for group in self.groups), default=self.layer_weights)

    @cached_property
    def expert_weights(self) -> float:
        """Weights of the experts that tokens are sent to, of all layers."""
        return sum(group.num * group.expert_weights for group in self.groups)

    @cached_property
    def routed_layers(self) -> int:
        """Layers with such experts."""
        return sum(group.num for group in self.groups if group.expert_weights)

    def held_weights(self, ep: int) -> float:
        """Of the largest layer's weights those that a rank runs whose part of the experts is 1/ep."""
        held = (group.weights - group.expert_weights * (1 - 1 / ep) for group in self.groups)
        return self.largest_layer_weights if ep == 1 else max(held)

    def padding(self, ranks: int, ep: int) -> int:
        """Values that fill up what does not divide over so many ranks, shared-out experts not counted."""
        tables = (cut_length(self.vocab, ranks) - self.vocab) * self.hidden * (1 if self.tied else 2)
        return tables + sum(g.num * (g.cut_values(ranks, ep) - g.cut_values(1, ep)) for g in self.groups)

    def held_expert_values(self, ranks: int, ep: int) -> int:
        """Values of the experts of one of `ep` parts as cut over so many ranks, padding included."""
        groups = (group for group in self.groups if group.num_experts)
        return sum(g.num * g.cut_expert_values(ranks, g.num_experts // ep) for g in groups)

    def held_parameters(self, ep: int) -> float:
        """The same of all parameters."""
        return self.num_parameters - self.expert_weights * (1 - 1 / ep)

    @cached_property
    def mlp_weights(self) -> float:
        """Weights of one layer's products after attention."""
        return sum(weight.size for weight in self.mlp)

    @property
    def embedding_weights(self) -> int:
        """Weights of the token embedding, and of the head where it is not tied."""
        return self.vocab * self.hidden

    @property
    def value_width(self) -> int:
        """Width of a value head."""
        return self.value_dim or self.head_dim

    @property
    def run_again(self) -> tuple[Weight, ...]:
        """Products that a checkpoint which stops early runs again."""
        return (self.attention + self.mlp)[:-1] if self.again is None else self.again

    def mixing(self, attended_len: float) -> float:
        """Forward FLOPs per token of the average layer's softmax attention over `attended_len` tokens."""
        if not self.groups:
            return attended_len * self.query_heads * (self.head_dim + self.value_width)
        whole = sum(group.num * (group.mixing(attended_len) - group.scan_flops) for group in self.groups)
        return whole / self.num_layers

    def exchange(self, kv_heads: int) -> tuple[float, float]:
        """Values per token of the average layer's all-to-alls, before attention and after."""
        if not self.groups:
            before = self.query_heads * self.head_dim + kv_heads * (self.head_dim + self.value_width)
            return before, self.query_heads * self.value_width
        of_groups = [(group.num, *group.exchange(kv_heads)) for group in self.groups]
        before, after = (sum(num * widths[i] for num, *widths in of_groups) for i in (0, 1))
        return before / self.num_layers, after / self.num_layers

    @cached_property
    def scan(self) -> tuple[float, float]:
        """Forward FLOPs per token of the average layer's recurrence, and values that it moves."""
        flops = sum(group.num * group.scan_flops for group in self.groups)
        return flops / self.num_layers, sum(g.num * g.scan_values for g in self.groups) / self.num_layers


class ModelFamily(Protocol):
    """One family of decoders; every method takes a shape and is pure."""

    name: str
    """What a shape calls it: `family = "llama"`."""
    torch_module: str
    """The module whose BUILDER makes the model; imported by ranks only."""
    model_types: tuple[str, ...]
    """What a config.json of transformers calls it."""
    untrained: str
    """Why ranks cannot train it, or nothing; such a family is counted and planned."""

    def __hash__(self) -> int: ...

    def parameters(self, shape: ModelShape) -> Parameters:
        """Parameters by place, in total and active."""
        ...

    def layers(self, shape: ModelShape) -> tuple[LayerGroup, ...]:
        """The model's layers by kind."""
        ...

    def last_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Lengths of the parameters behind the layers that belong to no product."""
        ...

    def dims(self, shape: ModelShape) -> Dims:
        """Widths for the planner."""
        ...

    def forward_flops(self, shape: ModelShape, attended_len: float, causal: bool = True) -> float:
        """FLOPs per token of one forward pass; causal: attention over half the square."""
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

    def exchange_widths(self, shape: ModelShape, sp: int) -> list[tuple[int, int]]:
        """Values per token in each layer's all-to-alls: q, k and v before attention, the output after it."""
        ...

    def ring_widths(self, shape: ModelShape, ulysses: int) -> list[int]:
        """Values per token of each layer's message round a ring: keys, and values padded to their width."""
        ...

    def ring_windows(self, shape: ModelShape) -> list[int]:
        """Tokens that each layer sees, in the order of `ring_widths`; 0: all before."""
        ...

    def problems(self, shape: ModelShape) -> list[str]:
        """What of a shape contradicts itself or is missing, as `field=value: why`."""
        ...

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """`small`, of few heads and layers, with what else is in `shape` in proportion."""
        ...

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """The config.json of transformers for this shape, with positions for at least `seq_len` tokens."""
        ...

    def read_config(self, config: ConfigReader) -> None:
        """Fill the reader's fields from a config.json; raises TgsError for an option not understood."""
        ...


def attention_weights(hidden: int, query_heads: int, kv_heads: int, head_dim: int) -> tuple[Weight, ...]:
    """Query, key, value and output projections of grouped-query attention."""
    queries, keys = query_heads * head_dim, kv_heads * head_dim
    return Weight(queries, hidden), Weight(keys, hidden), Weight(keys, hidden), Weight(hidden, queries)


def mlp_weights(hidden: int, intermediate: int, matrices: int = 3) -> tuple[Weight, ...]:
    """Matrices of a dense MLP, the down projection last; a gated one has three."""
    return (Weight(intermediate, hidden),) * (matrices - 1) + (Weight(hidden, intermediate),)


def expert_weights(shape: ModelShape) -> tuple[Weight, ...]:
    """Router, then gate and up in one and down of every expert, then the MLP that all tokens share."""
    experts, hidden = shape.experts, shape.hidden_size
    assert experts is not None
    up = Weight(2 * experts.intermediate_size, hidden, experts.num, experts.used)
    down = Weight(hidden, experts.intermediate_size, experts.num, experts.used)
    shared = experts.shared_intermediate_size
    beside = mlp_weights(hidden, shared) if shared else ()
    return Weight(experts.num, hidden), up, down, *beside
