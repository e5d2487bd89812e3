"""Sizes that follow from a model's shape, without torch."""

from __future__ import annotations

from tgsbench.schema.preset import ModelShape


def layer_parameters(shape: ModelShape) -> int:
    """Parameters of one decoder layer: q, k, v, o projections, gated MLP, two RMSNorms."""
    h, d = shape.hidden_size, shape.head_dim
    attention = 2 * h * shape.num_query_heads * d + 2 * h * shape.num_kv_heads * d
    return attention + 3 * h * shape.intermediate_size + 2 * h


def embedding_parameters(shape: ModelShape) -> int:
    """Parameters of the token embedding (and of the head, when it is not tied)."""
    return shape.vocab_size * shape.hidden_size


def num_parameters(shape: ModelShape) -> int:
    """All parameters, tied ones once."""
    copies = 1 if shape.tie_word_embeddings else 2
    layers = shape.num_layers * layer_parameters(shape)
    return layers + copies * embedding_parameters(shape) + shape.hidden_size


def local_kv_heads(shape: ModelShape, sp: int) -> int:
    """KV heads one rank attends with under Ulysses: kv/sp, or one replica when kv < sp."""
    return max(1, shape.num_kv_heads // sp)
