"""Attention kernels behind one call: q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d], causal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tgsbench.errors import ExitCode, TgsError
from tgsbench.parallel.documents import Bucket, Documents

AttentionFn = Callable[[Tensor, Tensor, Tensor, float, Documents | None], Tensor]


@dataclass(frozen=True)
class Kernel:
    """An attention kernel, its version, and why it was chosen."""

    name: str
    version: str
    run: AttentionFn
    reason: str = ""


def choose(name: str, device: torch.device, document_mask: bool) -> Kernel:
    """The kernel a preset names, or the best one that imports here for `auto`.

    Raises TgsError when the named kernel cannot run here.
    """
    if name != "auto":
        return _make(name, device, "the preset names it")
    for candidate in _preferred(device, document_mask):
        try:
            return _make(candidate, device, "first of " + ", ".join(_preferred(device, document_mask)))
        except TgsError:
            continue
    raise AssertionError("SDPA is always there")


def _preferred(device: torch.device, document_mask: bool) -> tuple[str, ...]:
    if device.type != "cuda":
        return ("sdpa",)
    return ("flash3", "flash2", "varlen", "sdpa") if document_mask else ("flash3", "flash2", "sdpa")


def _make(name: str, device: torch.device, reason: str) -> Kernel:
    if name == "sdpa":
        return Kernel("sdpa", str(torch.__version__), sdpa, reason)
    if device.type != "cuda":
        raise _missing(name, "it needs a CUDA device", "engine.kernel=sdpa runs everywhere")
    if name == "cudnn":
        return Kernel("cudnn", str(torch.backends.cudnn.version()), cudnn, reason)
    return Kernel(name, *_IMPORTED[name](), reason)


def sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: Documents | None) -> Tensor:
    """torch's scaled_dot_product_attention; documents go in buckets of similar length."""
    if docs is None:
        return _causal(q, k, v, scale)
    out = torch.empty_like(q)
    for bucket in docs.buckets:
        out = _attend_bucket(out, q, k, v, scale, bucket)
    return out


def cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: Documents | None) -> Tensor:
    """SDPA pinned to cuDNN's fused attention."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, k, v, scale, docs)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def _attend_bucket(out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, bucket: Bucket) -> Tensor:
    """Attention of one bucket's documents, scattered into `out` [B, S, a, d]."""
    batch, _, heads, dim = q.shape
    n, width = bucket.index.shape
    flat = bucket.index.flatten()

    def gather(x: Tensor) -> Tensor:
        return x[:, flat].reshape(batch * n, width, x.shape[2], dim)

    part = _causal(gather(q), gather(k), gather(v), scale).reshape(batch, n * width, heads, dim)
    return out.index_copy(1, bucket.positions, part[:, bucket.rows])


def _flash2() -> tuple[str, AttentionFn]:
    try:
        from flash_attn import flash_attn_func, flash_attn_varlen_func
    except ImportError as error:
        raise _missing("flash2", str(error), "pip install flash-attn --no-build-isolation") from error

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: Documents | None) -> Tensor:
        if docs is None:
            return _first(flash_attn_func(q, k, v, causal=True, softmax_scale=scale))
        return _varlen(flash_attn_varlen_func, q, k, v, scale, docs, "softmax_scale")

    return importlib.metadata.version("flash-attn"), run


def _flash3() -> tuple[str, AttentionFn]:
    try:
        from flash_attn_interface import flash_attn_func, flash_attn_varlen_func
    except ImportError as error:
        raise _missing("flash3", str(error), "build flash-attention's hopper folder") from error

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: Documents | None) -> Tensor:
        if docs is None:
            return _first(flash_attn_func(q, k, v, causal=True, softmax_scale=scale))
        return _varlen(flash_attn_varlen_func, q, k, v, scale, docs, "softmax_scale")

    return "3", run


def _varlen(
    fn: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, scale: float, docs: Documents, scale_key: str
) -> Tensor:
    """Call a flash-attn varlen function on [1, S, a, d] tensors."""
    cu, longest = docs.cu_seqlens, docs.max_len
    args = (q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), cu, cu, longest, longest)
    out = fn(*args, causal=True, **{scale_key: scale})
    return _first(out).view_as(q)


def _first(out: Any) -> Tensor:
    """The output of a kernel that may return its LSE too."""
    tensor: Tensor = out[0] if isinstance(out, tuple) else out
    return tensor


_IMPORTED: dict[str, Callable[[], tuple[str, AttentionFn]]] = {"flash2": _flash2, "flash3": _flash3}


def _missing(name: str, why: str, hint: str) -> TgsError:
    return TgsError(
        f"attention kernel {name!r} cannot run here: {why}", hint=hint, exit_code=ExitCode.MISSING_DEPENDENCY
    )
