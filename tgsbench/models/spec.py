"""Sizes that follow from a model's shape, as its family counts them; TgsError on an unknown family."""

from __future__ import annotations

from msgspec import Struct

from tgsbench.models.flops import flops_per_token
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


_CACHE_BYTES = 2
"""A cached value in bf16."""
_LENGTHS = (8192, 131072)


class ModelSummary(Struct, frozen=True, kw_only=True):
    """One shape in a line of `tgsbench models`."""

    key: str
    """What `model = ` and --model call it."""
    name: str
    family: str
    num_layers: int
    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    """Of all layers in bf16; layers with a window stop at its length, linear ones keep none."""
    flops_per_token: dict[int, float]
    """Of a training step by sequence length, in the `model` convention."""
    untrained: str
    """Why ranks cannot train it, or nothing."""


def summary(key: str, shape: ModelShape) -> ModelSummary:
    """Sizes and costs of a shape; raises TgsError when nobody knows the shape's family."""
    family = find_family(shape.family)
    counted = family.parameters(shape)
    cached = sum(group.num * group.cached for group in family.layers(shape))
    return ModelSummary(
        key=key,
        name=shape.name,
        family=shape.family,
        num_layers=shape.num_layers,
        parameters=counted.total,
        active_parameters=counted.active,
        kv_bytes_per_token=_CACHE_BYTES * cached,
        flops_per_token={length: flops_per_token("model", shape, length, "none") for length in _LENGTHS},
        untrained=family.untrained,
    )
