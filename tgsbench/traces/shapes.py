"""Bytes and floating-point operations of a call, from the shapes a trace recorded."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tgsbench.traces.columns import Shapes
from tgsbench.traces.row_store import Ints
from tgsbench.traces.tables import Arguments, Host

_ITEM_BYTES: Final = (
    (re.compile(r"float8|byte|char|bool|int8", re.IGNORECASE), 1),
    (re.compile(r"bfloat16|half|float16|short", re.IGNORECASE), 2),
    (re.compile(r"double|float64|int64|long|complexfloat", re.IGNORECASE), 8),
    (re.compile(r"float|int", re.IGNORECASE), 4),
)
_MAX_DIM: Final = 2**48
_PRODUCTS: Final = {
    "aten::mm": 0,
    "aten::addmm": 1,
    "aten::addmm_": 1,
    "aten::bmm": 0,
    "aten::baddbmm": 1,
    "aten::_scaled_mm": 0,
    "aten::mkldnn_linear": 0,
    "aten::_mkldnn_linear_pointwise": 0,
}
"""Operator -> position of its first factor."""
_BATCH_HEADS_SEQ: Final = re.compile(r"^aten::_scaled_dot_product_\w*?attention(_for_cpu)?(_backward)?$")
_BATCH_SEQ_HEADS: Final = re.compile(r"^aten::_(flash|efficient)_attention_(forward|backward)$")


def wanted(name: str) -> bool:
    """Are the shapes of this operator or annotation of use?"""
    return (
        name in _PRODUCTS
        or name.startswith(("c10d::", "gloo:"))
        or _BATCH_HEADS_SEQ.match(name) is not None
        or _BATCH_SEQ_HEADS.match(name) is not None
    )


def item_bytes(dtype: str) -> int:
    """Bytes of one element by torch's or NCCL's name of the type; 0: unknown."""
    return next((size for pattern, size in _ITEM_BYTES if pattern.search(dtype)), 0)


@lru_cache(maxsize=1 << 14)
def largest_tensor_bytes(shapes: Shapes | None) -> int | None:
    """Bytes of the largest tensor, or list of tensors, among a call's arguments."""
    dims, types = _decoded(shapes.dims if shapes else b""), _decoded(shapes.types if shapes else b"")
    sizes = [_tensor_bytes(d, t) for d, t in zip(dims, types, strict=False)]
    return max((size for size in sizes if size), default=None)


@lru_cache(maxsize=1 << 14)
def flops(name: str, shapes: Shapes | None) -> float | None:
    """Operations of a product (2 m k n) or of attention; None: not to be told from the shapes.

    Attention: 4 B H S_q S_k D in the forward, 2.5 times as many in the backward, half where the call says
    causal (arXiv 2307.08691, section 4.1); keys beyond queries stay out of the half.
    """
    if shapes is None:
        return None
    dims = _decoded(shapes.dims)
    if name in _PRODUCTS:
        return _product(dims[_PRODUCTS[name] :], transposed="linear" in name)
    backward = name.endswith("_backward")
    tensors = [d for d in dims if _is_shape(d) and len(d) == 4]
    if len(tensors) < 3:
        return None
    q, k = tensors[1:3] if backward else tensors[:2]
    if _BATCH_HEADS_SEQ.match(name):
        batch, heads, q_len, dim = q
        k_len = k[2]
    elif _BATCH_SEQ_HEADS.match(name):
        batch, q_len, heads, dim = q
        k_len = k[1]
    else:
        return None
    causal = 0.5 if "True" in _decoded(shapes.concrete) else 1.0
    return float(4 * batch * heads * q_len * k_len * dim) * causal * (2.5 if backward else 1.0)


def flops_of(host: Host, rows: Ints) -> npt.NDArray[np.float64]:
    """Floating-point operations of some rows of the host; 0: not known."""
    count = len(host.arguments)
    pairs, index = np.unique(host.name[rows].astype(np.int64) * count + host.said[rows], return_inverse=True)
    known = [_flops(host.names[pair // count], host.arguments[pair % count]) for pair in pairs.tolist()]
    return np.array(known, np.float64)[index]


def _flops(name: str, arguments: Arguments) -> float:
    return (flops(name, arguments) or 0.0) if isinstance(arguments, Shapes) else 0.0


def _product(dims: list[Any], transposed: bool) -> float | None:
    if len(dims) < 2 or not (_is_shape(dims[0]) and _is_shape(dims[1])):
        return None
    a, b = dims[0], dims[1]
    inner, columns = (b[-1], b[0]) if transposed else (b[-2] if len(b) > 1 else 0, b[-1])
    if len(a) < 2 or len(b) < 2 or a[-1] != inner:
        return None
    return float(2 * math.prod(a) * columns)


def _is_shape(dims: Any) -> bool:
    return isinstance(dims, list) and bool(dims) and all(type(d) is int and 0 <= d < _MAX_DIM for d in dims)


def _tensor_bytes(dims: Any, dtype: Any) -> int:
    if not isinstance(dtype, str) or not isinstance(dims, list):
        return 0
    if dims and all(_is_shape(d) for d in dims):
        return sum(_tensor_bytes(d, dtype) for d in dims)
    return math.prod(dims) * item_bytes(dtype) if _is_shape(dims) else 0


def _decoded(text: bytes) -> list[Any]:
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []
