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
    """Every reduction of a backward through all layers; vectors, which are small, are left out.

    The gradient of the head comes first, or with the embedding's where the two are tied.
    """
    room, found = bucket_weights(dims), list[Reduction]()
    weights = [weight.size for weight in reversed(dims.attention + dims.mlp)]
    filled, several = (0.0, False) if dims.tied else (float(dims.embedding_weights), False)
    for behind in range(dims.num_layers):
        for index, size in enumerate(weights):
            if filled and filled + size > room:
                found.append(Reduction(behind, index, filled if several else 0.0))
                filled, several = 0.0, False
            several = filled > 0
            filled += size
    return tuple(found)
