"""When DeepSpeed reduces gradients: its bucket is filled in the order of the backward, and is full somewhere.

A gradient that finds no room has the bucket reduced first (`stage3.py`, 0.19.8). What a layer holds at that
moment, and how many layers still keep their inputs, differs from model to model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tgsbench.models.family import Dims

BUCKET_WEIGHTS = 500_000_000
"""DeepSpeed's reduce_bucket_size in elements: one bucket is there from the start."""


class Reduction(NamedTuple):
    """A bucket that is reduced because the gradient of one more weight finds no room in it."""

    behind: int
    """Layers whose backward is over."""
    weight: int
    """Which of the layer's matrices asks for room, counted from the last that its forward runs."""
    copied: float
    """Gradients that are laid in the order of the ranks: those in the bucket, where there are several."""


def bucket_weights(dims: Dims) -> float:
    """Elements of the bucket: no more than the model has."""
    return float(min(BUCKET_WEIGHTS, dims.num_parameters))


@lru_cache(maxsize=64)
def reductions(dims: Dims) -> tuple[Reduction, ...]:
    """The reductions of a backward through all layers that copy what is in the bucket.

    The gradient of the head comes first, or with the embedding's where the two are tied. Vectors (norms) take
    no room worth counting, but one beside a matrix is a second gradient.
    """
    room, found = bucket_weights(dims), list[Reduction]()
    weights = [weight.size for weight in reversed(dims.attention + dims.mlp)]
    before_a_norm = {len(dims.mlp) - 1, len(weights) - 1}
    filled = 0.0 if dims.tied or dims.embedding_weights > room else float(dims.embedding_weights)
    num_inside = 2 if filled else 1  # the last norm is there with the head
    for behind in range(dims.num_layers):
        for index, size in enumerate(weights):
            if filled + size > room:
                if num_inside > 1:
                    found.append(Reduction(behind, index, filled))
                filled, num_inside = 0.0, 0
            filled += size
            num_inside += 2 if index in before_a_norm else 1
    return tuple(found)
