"""FLOPs per token in four named conventions; no two tools mean the same by "TFLOPs".

Symbols: h hidden, L layers, i intermediate, a query heads, kv KV heads, d head dim, V vocabulary,
S attended length in tokens. With a document mask S is Σ len² / Σ len over the real documents.
"""

from __future__ import annotations

from collections.abc import Callable

from tgsbench.schema.preset import Checkpointing, ModelShape

XTUNER = "xtuner"
"""The convention of the published tables, and so of ours."""
CONVENTIONS = (XTUNER, "model", "palm", "hardware")

FORMULAS = {
    XTUNER: "(3 + k)·L·(8h² + 4Sh/2 + 6hi) + 6hV, k = 1 with activation checkpointing (XTuner)",
    "model": "3·[L·(4had + 4h·kv·d + 6hi + 2Sad) + 2hV], causal, GQA-aware (Megatron-LM, MaxText)",
    "palm": "as model with full attention: 6N + 12·L·a·d·S (PaLM, torchtitan)",
    "hardware": "the forward counted as often as it runs under the checkpoint policy",
}


def flops_per_token(
    convention: str, shape: ModelShape, attended_len: float, checkpointing: Checkpointing
) -> float:
    """FLOPs one token costs in a training step, forward and backward; KeyError on an unknown convention."""
    return _BY_NAME[convention](shape, attended_len, checkpointing)


def gemm_forward(shape: ModelShape) -> float:
    """Forward FLOPs per token of one layer's projections and MLP."""
    h, d = shape.hidden_size, shape.head_dim
    projections = 2 * (2 * h * shape.num_query_heads * d + 2 * h * shape.num_kv_heads * d)
    return projections + 6.0 * h * shape.intermediate_size


def attention_forward(shape: ModelShape, attended_len: float) -> float:
    """Forward FLOPs per token of one layer's causal attention: QKᵀ and PV over half the square."""
    return 2.0 * attended_len * shape.num_query_heads * shape.head_dim


def head_forward(shape: ModelShape) -> float:
    """Forward FLOPs per token of the output projection."""
    return 2.0 * shape.hidden_size * shape.vocab_size


def _xtuner(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    h, passes = shape.hidden_size, 3 if checkpointing == "none" else 4
    layer = 8.0 * h * h + 2.0 * attended_len * h + 6.0 * h * shape.intermediate_size
    return passes * shape.num_layers * layer + 6.0 * h * shape.vocab_size


def _model(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    layer = gemm_forward(shape) + attention_forward(shape, attended_len)
    return 3 * (shape.num_layers * layer + head_forward(shape))


def _palm(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    return _model(shape, 2 * attended_len, checkpointing)


def _hardware(shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
    again = 0.0
    if checkpointing != "none":
        again = gemm_forward(shape)
    if checkpointing == "full":
        again += attention_forward(shape, attended_len)
    return _model(shape, attended_len, checkpointing) + shape.num_layers * again


_BY_NAME: dict[str, Callable[[ModelShape, float, Checkpointing], float]] = {
    XTUNER: _xtuner,
    "model": _model,
    "palm": _palm,
    "hardware": _hardware,
}
