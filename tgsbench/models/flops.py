"""FLOPs per token in four named conventions; no two tools mean the same by "TFLOPs".

Symbols: h hidden, L layers, i intermediate, a query heads, kv KV heads, d head dim, V vocabulary,
S attended length in tokens. With a document mask S is Σ len² / Σ len over the real documents. The terms are
the family's own; what a convention makes of them is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Checkpointing, ModelShape

XTUNER = "xtuner"
"""The convention of the published tables, and so of ours."""


class Convention(NamedTuple):
    """One way to count the FLOPs of a token."""

    formula: str
    per_token: Callable[[ModelShape, float, Checkpointing], float]
    """FLOPs per token of a shape at an attended length in tokens under a checkpointing policy."""
    policies: tuple[Checkpointing, ...] = ()
    """Policies that it counts differently; empty: the policy makes no difference."""


def flops_per_token(
    convention: str, shape: ModelShape, attended_len: float, checkpointing: Checkpointing
) -> float:
    """FLOPs one token costs in a training step, forward and backward.

    Raises KeyError on an unknown convention, TgsError on a shape of an unknown family.
    """
    return TABLE[convention].per_token(shape, attended_len, checkpointing)


def _xtuner(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    return find_family(shape.family).xtuner_flops(shape, attended_len, checkpointing)


def _model(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    return 3 * find_family(shape.family).forward_flops(shape, attended_len)


def _palm(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    return 3 * find_family(shape.family).forward_flops(shape, attended_len, causal=False)


def _hardware(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    again = find_family(shape.family).recompute_flops(shape, attended_len, checkpointing)
    return _model(shape, attended_len, checkpointing) + again


TABLE: dict[str, Convention] = {
    XTUNER: Convention(
        "(3 + k)·L·(8h² + 4Sh/2 + 6hi) + 6hV, k = 1 with activation checkpointing (XTuner)",
        _xtuner,
        ("full", "none"),
    ),
    "model": Convention(
        "3·[L·(4had + 4h·kv·d + 6hi + 2Sad) + 2hV], causal, GQA-aware (Megatron-LM, MaxText)", _model
    ),
    "palm": Convention("as model with full attention: 6N + 12·L·a·d·S (PaLM, torchtitan)", _palm),
    "hardware": Convention(
        "model + what the checkpoint policy runs again: a layer's products but the last (torch's "
        "checkpoint stops before it; not where a norm or a router needs its result), full checkpointing also "
        "its attention",
        _hardware,
        ("full", "selective"),  # without recompute it is `model`
    ),
}
"""Every named convention; to add one, add its function and its row."""
CONVENTIONS = tuple(TABLE)
FORMULAS = {name: convention.formula for name, convention in TABLE.items()}
