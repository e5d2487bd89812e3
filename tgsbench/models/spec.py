"""Sizes that follow from a model's shape, as its family counts them; TgsError on an unknown family."""

from __future__ import annotations

from tgsbench.models.registry import find_family
from tgsbench.schema.model import ModelShape


def num_parameters(shape: ModelShape) -> int:
    """All parameters, tied ones once; raises TgsError when nobody knows the shape's family."""
    return find_family(shape.family).parameters(shape).total


def layer_parameters(shape: ModelShape) -> int:
    """Parameters of one decoder layer; raises TgsError when nobody knows the shape's family."""
    return find_family(shape.family).parameters(shape).layer


def local_kv_heads(shape: ModelShape, sp: int) -> int:
    """KV heads one rank attends with under Ulysses; raises TgsError when nobody knows the family."""
    return find_family(shape.family).local_kv_heads(shape, sp)
