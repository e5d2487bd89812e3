"""What a model's shape says: sizes of a decoder, typed and closed to unknown keys."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr

LayerKind = Literal["full", "window", "linear"]
"""Causal attention over everything before, over the last `window` tokens, or a gated linear recurrence."""


class Experts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixture of experts in place of a layer's MLP."""

    num: int
    used: int
    """Experts that each token is sent to (top-k)."""
    intermediate_size: int
    """Width inside one expert."""
    shared_intermediate_size: int = 0
    """Width inside the MLP that every token passes beside its experts; 0: there is none."""
    dense_first: int = 0
    """Layers at the beginning that keep a dense MLP of the model's own intermediate_size."""
    normalised: bool = True
    """Do the weights of a token's experts add up to 1?"""
    groups: int = 1
    used_groups: int = 1
    """Experts are chosen from this many of the `groups`."""
    scale: float = 1.0
    """Factor on the routed experts' sum."""


class LatentAttention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): q, k and v through low ranks."""

    query_rank: int
    """0: queries are projected directly."""
    kv_rank: int
    nope_dim: int
    """Values of a query or key head without positions."""
    rope_dim: int
    """Values with positions; the key's are shared by all heads."""
    value_dim: int


class LinearAttention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gated delta rule (arXiv 2412.06464) behind a short causal convolution."""

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4


class ModelShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder-only transformer's shape; enough to build it and to count its FLOPs."""

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width inside a dense MLP."""
    num_query_heads: int
    num_kv_heads: int
    vocab_size: int
    head_dim: int
    """Width of a query and a key; a value's too, but for latent attention."""
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    """Have the projections around attention a bias (where the family leaves it open)?"""
    qk_norm: bool | UnsetType = UNSET
    """Are queries and keys normalised (where the family leaves it open)? Unset: not there."""
    window: int = 0
    """Tokens that a layer of kind `window` sees, itself included."""
    layer_pattern: tuple[LayerKind, ...] = ()
    """Kinds of the layers, repeated up to num_layers; empty: the family's own."""
    experts: Experts | None = None
    latent: LatentAttention | None = None
    linear: LinearAttention | None = None
    mtp_layers: int = 0
    """Multi-token-prediction modules (arXiv 2412.19437): counted and planned, not trained."""
    family: str = "llama"
    """Who counts and builds it: a module of tgsbench/models."""
    source: str = ""
    architecture: str | UnsetType = UNSET
    """What runs stored by 0.1 call the family, which was always llama: read, not kept."""

    def __post_init__(self) -> None:
        if self.architecture is not UNSET:
            force_setattr(self, "architecture", UNSET)
