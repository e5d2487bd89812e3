"""Everything that is asked of a family, answered from its layers by kind."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import replace

from tgsbench.models.family import (
    Dims,
    LayerGroup,
    Parameters,
    Weight,
    attention_weights,
    mlp_weights,
)
from tgsbench.schema.model import LayerKind, ModelShape

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.preset import Checkpointing


class Decoder:
    """Grouped-query attention, a gated MLP and two RMSNorms a layer; families change what is different.

    See `family.ModelFamily`.
    """

    name = ""
    torch_module = ""
    model_types: tuple[str, ...] = ()
    untrained = ""
    architecture = ""
    """The class of transformers that a config.json names."""
    default_pattern: tuple[LayerKind, ...] = ("full",)
    norms_per_layer = 2
    """Norms of the hidden size."""
    norms_are_biased = False
    """LayerNorms, with a bias beside their weight?"""
    mlp_matrices = 3
    """A plain MLP has two, a gated one three."""
    gate_kept = 0
    """Tensors that a gate of its own keeps beside those of SwiGLU."""
    qk_norm: bool | None = False
    """Are queries and keys normalised? None: the shape says it."""
    norms_all_heads = False
    """Is that one norm over all heads, not one over each?"""
    runs_last_again = False
    has_one_window = False
    """Have all layers the window, or none, in transformers' own class?"""
    has_windows = False
    """May layers have a window though the family's own pattern has none?"""

    # What a family is made of

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """A layer's projections around attention."""
        heads = shape.num_query_heads, shape.num_kv_heads, shape.head_dim
        return attention_weights(shape.hidden_size, *heads)

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """A layer's products after attention."""
        return mlp_weights(shape.hidden_size, shape.intermediate_size, self.mlp_matrices)

    def between(self, shape: ModelShape) -> int:
        """Values between the matrices of a layer's MLP."""
        return shape.intermediate_size

    def vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Lengths of a layer's parameters in no product: norms, biases, sinks."""
        norms = self.norms_per_layer * self.norm_vectors(shape)
        return norms + self._head_norms(shape) * self.has_qk_norm(shape) + self.biases(shape)

    def norm_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Those of one norm of the hidden size."""
        return (shape.hidden_size,) * (1 + self.norms_are_biased)

    def last_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Those behind the layers: of the last norm."""
        return self.norm_vectors(shape)

    def has_qk_norm(self, shape: ModelShape) -> bool:
        """Does this shape normalise queries and keys?"""
        return shape.qk_norm is True if self.qk_norm is None else self.qk_norm

    def _head_norms(self, shape: ModelShape) -> tuple[int, ...]:
        """Lengths of the norms of queries and keys."""
        if not self.norms_all_heads:
            return (shape.head_dim,) * 2
        return tuple(heads * shape.head_dim for heads in (shape.num_query_heads, shape.num_kv_heads))

    def qkv_biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Lengths of the biases of q, k and v, where they have some."""
        return tuple(weight.out_width for weight in self.attention(shape)[:3])

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of a layer: those of q, k, v and o where the shape has them."""
        if not shape.attention_bias:
            return ()
        return tuple(weight.out_width for weight in self.attention(shape))

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """One layer of a kind."""
        return LayerGroup(
            num=1,
            attention=self.attention(shape),
            mlp=self.mlp(shape),
            vectors=self.vectors(shape),
            query_heads=shape.num_query_heads,
            kv_heads=shape.num_kv_heads,
            key_dim=shape.head_dim,
            value_dim=shape.head_dim,
            cached=2 * shape.num_kv_heads * shape.head_dim,
            window=shape.window if kind == "window" else 0,
            between=self.between(shape),
            runs_last_again=self.runs_last_again,
        )

    def pattern(self, shape: ModelShape) -> tuple[LayerKind, ...]:
        """Kinds of all layers, first to last."""
        pattern = shape.layer_pattern or self.default_pattern
        return tuple(itertools.islice(itertools.cycle(pattern), shape.num_layers))

    def layer_types(self, shape: ModelShape) -> list[str]:
        """The same as a config.json names them."""
        return [LAYER_TYPES[kind] for kind in self.pattern(shape)]

    def kinds(self) -> set[LayerKind]:
        """Kinds of layers that transformers' own class has."""
        windows: set[LayerKind] = {"window"} if self.has_windows or self.has_one_window else set()
        return {"full", *self.default_pattern, *windows}

    def layers(self, shape: ModelShape) -> tuple[LayerGroup, ...]:
        """The model's layers by kind."""
        kinds = self.pattern(shape)
        return tuple(replace(self.layer(shape, kind), num=kinds.count(kind)) for kind in dict.fromkeys(kinds))

    # What follows from it

    def parameters(self, shape: ModelShape) -> Parameters:
        """Layers, embedding, head, the last norm; MTP modules as further layers and what joins them."""
        groups, h = self._all_layers(shape), shape.hidden_size
        embedding = shape.vocab_size * h
        head = 0 if shape.tie_word_embeddings else embedding
        joins = shape.mtp_layers * (2 * h * h + 3 * h)
        layers = sum(g.num * g.parameters for g in groups)
        total = layers + embedding + head + sum(self.last_vectors(shape)) + joins
        most = max(groups, key=lambda group: group.num)
        return Parameters(
            layer=most.parameters,
            embedding=embedding,
            head=head,
            total=total,
            active=total - sum(g.num * g.idle for g in groups),
        )

    def dims(self, shape: ModelShape) -> Dims:
        """Widths for the planner."""
        groups = self._all_layers(shape)
        num = sum(group.num for group in groups)
        softmax = max(groups, key=lambda group: (group.query_heads > 0, group.num))
        return Dims(
            num_layers=num,
            hidden=shape.hidden_size,
            vocab=shape.vocab_size,
            tied=shape.tie_word_embeddings,
            num_parameters=self.parameters(shape).total,
            query_heads=shape.num_query_heads,
            kv_heads=softmax.kv_heads,
            head_dim=softmax.key_dim,
            value_dim=0 if softmax.value_dim == softmax.key_dim else softmax.value_dim,
            intermediate=round(sum(g.num * g.between for g in groups) / num),
            norm_width=self.norm_width(shape),
            mlp_matrices=self.mlp_matrices,
            gate_kept=self.gate_kept,
            head_norm_width=self._head_norm_width(shape),
            attention=_average([(g, g.attention) for g in groups], num),
            mlp=_average([(g, g.mlp) for g in groups], num),
            again=_average([(g, _again(g)) for g in groups], num),
            routed=0 if shape.experts is None else shape.experts.used * shape.hidden_size,
            groups=groups,
            recurrent=self._recurrent(shape),
        )

    def _recurrent(self, shape: ModelShape) -> tuple[bool, ...]:
        found = tuple(kind == "linear" for kind in self.pattern(shape))
        return found if any(found) else ()

    def norm_width(self, shape: ModelShape) -> int:
        """Values that a layer normalises for each token."""
        return self.norms_per_layer * shape.hidden_size + self._head_norm_width(shape)

    def _head_norm_width(self, shape: ModelShape) -> int:
        heads = shape.num_query_heads + shape.num_kv_heads
        return heads * shape.head_dim * self.has_qk_norm(shape)

    def forward_flops(self, shape: ModelShape, attended_len: float, causal: bool = True) -> float:
        """Products and attention of every layer, and the head: 2hV; once more for each MTP module."""
        h = shape.hidden_size
        heads = 2.0 * h * shape.vocab_size * (1 + shape.mtp_layers)
        joins = shape.mtp_layers * 4.0 * h * h
        return (
            heads
            + joins
            + sum(
                group.num * (group.products + group.mixing(attended_len, causal))
                for group in self._all_layers(shape)
            )
        )

    def recompute_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """A layer's products but the last, and its attention under full checkpointing.

        torch's checkpoint without re-entrance stops once the last tensor that the backward needs is back:
        where that is the input of the layer's last product, the product is never run again.
        """
        if checkpointing == "none":
            return 0.0
        again = 0.0
        for group in self._all_layers(shape):
            mixing = group.mixing(attended_len) if checkpointing == "full" else group.scan_flops
            again += group.num * (group.products - group.last_product + mixing)
        return again

    def xtuner_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """(3 + k)·L·(8h² + 2Sh + 6hi) + 6hV; it takes every KV head for a query head, and knows no window.

        6hi are twice the weights that a token meets after attention, whatever they are.
        """
        h, passes = shape.hidden_size, 3 if checkpointing == "none" else 4
        groups = self._all_layers(shape)
        mlps = sum(2.0 * g.num * sum(weight.active for weight in g.mlp) for g in groups)
        layers = sum(g.num for g in groups) * (8.0 * h * h + 2.0 * attended_len * h)
        return passes * (layers + mlps) + 6.0 * h * shape.vocab_size

    def local_kv_heads(self, shape: ModelShape, sp: int) -> int:
        """kv/sp, or one replica when there are fewer than sp."""
        return max(1, shape.num_kv_heads // sp)

    def exchange_widths(self, shape: ModelShape, sp: int) -> list[tuple[int, int]]:
        """KV heads are repeated only up to sp."""
        if sp == 1:
            return [(0, 0)] * shape.num_layers
        return [widths for g in self.layers(shape) for widths in [g.exchange(max(g.kv_heads, sp))] * g.num]

    def ring_widths(self, shape: ModelShape, ulysses: int) -> list[int]:
        """At the KV heads of one Ulysses rank, copies included."""
        return [
            width
            for g in self.layers(shape)
            for width in [2 * max(g.kv_heads, ulysses) // ulysses * g.key_dim] * g.num
        ]

    def ring_windows(self, shape: ModelShape) -> list[int]:
        """The window of each layer, 0 where there is none."""
        return [window for g in self.layers(shape) for window in [g.window] * g.num]

    def problems(self, shape: ModelShape) -> list[str]:
        """Heads and windows that contradict each other or their family, and tables that nobody reads."""
        heads, kv_heads = shape.num_query_heads, shape.num_kv_heads
        if heads % kv_heads:
            return [f"model.num_kv_heads={kv_heads}: {heads} query heads are not divisible by it"]
        found = []
        if shape.head_dim % 2:
            found.append(f"model.head_dim={shape.head_dim}: must be even, since RoPE turns pairs of values")
        if unknown := sorted({*shape.layer_pattern} - self.kinds()):
            kinds = " or ".join(f'"{kind}"' for kind in unknown)
            found.append(f"model.layer_pattern: family {self.name} has no layers of kind {kinds}")
        if "window" in self.pattern(shape) and shape.window <= 0:
            found.append(f"model.window={shape.window}: layers of kind window need a length of at least 1")
        if shape.qk_norm is not UNSET and self.qk_norm is not None:
            found.append(f"model.qk_norm: family {self.name} leaves no choice of it")
        if self.has_one_window and shape.window and set(self.pattern(shape)) != {"window"}:
            found.append(
                f"model.window={shape.window}: all layers of family {self.name} have it or none; nearest: "
                'model.layer_pattern=["window"], or model.window=0'
            )
        for table in ("experts", "latent", "linear"):
            given, wanted = getattr(shape, table) is not None, table in self.tables
            if given != wanted:
                found.append(f"model.{table}: {'missing' if wanted else 'unknown to'} family {self.name}")
        return found

    tables: tuple[str, ...] = ()
    """Which of experts, latent and linear a shape must have."""

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """Windows of a few tokens, at most eight experts, and enough layers to have each kind once."""
        kinds = tuple(dict.fromkeys(self.pattern(shape)))
        if len(kinds) > 1:
            small = replace(small, layer_pattern=kinds)
        if shape.window:
            small = replace(small, window=min(shape.window, _SMALL_WINDOW))
        return small if shape.experts is None else self._fewer_experts(shape, small)

    def _fewer_experts(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        experts = shape.experts
        assert experts is not None
        ratio = small.hidden_size / shape.hidden_size
        num = min(experts.num, _SMALL_EXPERTS)
        fewer = replace(
            experts,
            num=num,
            used=max(1, min(experts.used, num // 4)),
            intermediate_size=max(32, round(experts.intermediate_size * ratio / 32) * 32),
            shared_intermediate_size=_scaled(experts.shared_intermediate_size, ratio),
            dense_first=min(experts.dense_first, 1),
            groups=min(experts.groups, 2),
            used_groups=1,
        )
        return replace(small, experts=fewer)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """What the config.json of every family has."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_query_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": max(shape.max_position_embeddings, seq_len),
            "rms_norm_eps": shape.rms_norm_eps,
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": shape.tie_word_embeddings,
            "initializer_range": 0.02,
            "use_cache": False,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Sizes that every family has; `silu` and no bias unless a family says otherwise."""
        config.expect("hidden_act", "silu")
        read_sizes(config)

    def _all_layers(self, shape: ModelShape) -> tuple[LayerGroup, ...]:
        """Layers, and MTP modules as further layers of the last one's kind."""
        groups = self.layers(shape)
        if not shape.mtp_layers:
            return groups
        return (*groups[:-1], replace(groups[-1], num=groups[-1].num + shape.mtp_layers))


LAYER_TYPES: dict[LayerKind, str] = {
    "full": "full_attention",
    "window": "sliding_attention",
    "linear": "linear_attention",
}
"""What a config.json calls a kind of layer."""
_SMALL_WINDOW = 48
_SMALL_EXPERTS = 8


def _scaled(width: int, ratio: float) -> int:
    return max(32, round(width * ratio / 32) * 32) if width else 0


def read_sizes(config: ConfigReader, rms_norm_eps: float = 1e-6) -> None:
    """Layers, widths, heads, vocabulary and positions, by the names that all families share."""
    config.count("num_layers", "num_hidden_layers")
    config.count("hidden_size", "hidden_size")
    config.count("intermediate_size", "intermediate_size")
    heads = config.count("num_query_heads", "num_attention_heads")
    config.count("num_kv_heads", "num_key_value_heads", heads)
    width = max(1, int(config.fields["hidden_size"]) // heads)
    config.count("head_dim", "head_dim", width)
    config.count("vocab_size", "vocab_size")
    config.flag("tie_word_embeddings", "tie_word_embeddings", False)
    config.real("rms_norm_eps", "rms_norm_eps", rms_norm_eps)
    config.count("max_position_embeddings", "max_position_embeddings", 4096)
    config.rope()


def whole_rope(shape: ModelShape) -> dict[str, Any]:
    """The rope_parameters of a family that can turn a part of a head: here all of it is."""
    return {"rope_type": "default", "rope_theta": shape.rope_theta, "partial_rotary_factor": 1.0}


def _again(group: LayerGroup) -> tuple[Weight, ...]:
    weights = group.attention + group.mlp
    return weights if group.runs_last_again else weights[:-1]


def _average(parts: list[tuple[LayerGroup, tuple[Weight, ...]]], num: int) -> tuple[Weight, ...]:
    """Weights of all groups as those of the average layer; equal ones of two groups are one."""
    if len({weights for _, weights in parts}) == 1:
        return parts[0][1]
    return tuple(weight._replace(share=group.num / num) for group, weights in parts for weight in weights)
