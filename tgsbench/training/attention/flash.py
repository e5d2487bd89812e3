"""flash-attn 2, 3 and 4 and torch's varlen attention, each loaded only when asked for.

A loader returns (version, function); the function takes q [B, S, a, d], k and v [B, S, n, d], the scale
and the documents. All of them run on CUDA only. Their forwards are dispatched as ops, so that a selective
checkpoint can keep what they return: see `checkpointing.saved_ops`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tgsbench.install import FLASH_ATTN
from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.attention.sinks import flash_with_sinks
from tgsbench.training.attention.windowed import PLAIN, Own

Run = Callable[..., Tensor]
"""(q, k, v, scale, documents), and `own=` for a window, or sinks."""

INSTALL = {
    "flash2": FLASH_ATTN,
    "flash3": "build the hopper folder of flash-attention, or install its flash_attn_3 wheel",
    "flash4": "pip install --pre flash-attn-4",
    "varlen": "it comes with torch 2.10 and later",
    "cudnn": "it comes with torch: take other cuDNN libraries off LD_LIBRARY_PATH",
}
"""How to get each kernel."""


def _flash2() -> tuple[str, Run]:
    # With only flash-attn 4 installed `flash_attn` is a namespace without functions: an ImportError here.
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    return _version("flash-attn"), _from_public(flash_attn_func, flash_attn_varlen_func)


def _flash3() -> tuple[str, Run]:
    try:
        module = importlib.import_module("flash_attn_interface")
    except ModuleNotFoundError:
        module = importlib.import_module("flash_attn_3.flash_attn_interface")
    return _version("flash-attn-3"), _from_public(module.flash_attn_func, module.flash_attn_varlen_func)


def _flash4() -> tuple[str, Run]:
    _Flash4.module = importlib.import_module("flash_attn.cute.interface")
    return _version("flash-attn-4"), flash4


def _varlen() -> tuple[str, Run]:
    module = importlib.import_module("torch.nn.attention.varlen")
    return str(torch.__version__), _from_torch_varlen(module.varlen_attn)


LOADERS: dict[str, Callable[[], tuple[str, Run]]] = {
    "flash2": _flash2,
    "flash3": _flash3,
    "flash4": _flash4,
    "varlen": _varlen,
}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _from_public(dense: Callable[..., Any], varlen: Callable[..., Any]) -> Run:
    """flash-attn 2 and 3 share their public signatures, except that some of 3 return the LSE as well."""

    def run(
        q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own = PLAIN
    ) -> Tensor:
        # Both ends count keys beside the query's own.
        options: dict[str, Any] = {"window_size": (own.window - 1, 0)} if own.window else {}
        options |= {"causal": True, "softmax_scale": scale}
        if docs is None:
            return _first(dense(q, k, v, **options))
        cu, longest = docs.cu_seqlens, docs.max_len
        rows = (x.flatten(0, 1) for x in (q, k, v))
        return _first(varlen(*rows, cu, cu, longest, longest, **options)).view_as(q)

    return run


def _from_torch_varlen(varlen_attn: Callable[..., Tensor]) -> Run:
    """torch.nn.attention.varlen; causal by `is_causal` up to torch 2.10, by `window_size` since."""
    parameters = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    takes_gqa = "enable_gqa" in parameters

    def run(
        q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own = PLAIN
    ) -> Tensor:
        if own.sinks is not None:
            return flash_with_sinks(q, k, v, scale, docs, own)
        options: dict[str, Any] = {**causal, "scale": scale}
        if own.window:
            options["window_size"] = (own.window - 1, 0)
        group = q.shape[2] // k.shape[2]
        if group > 1 and takes_gqa:
            options["enable_gqa"] = True
        elif group > 1:
            k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
        cu, longest = _boundaries(q, docs)
        rows = (x.flatten(0, 1) for x in (q, k, v))
        return _first(varlen_attn(*rows, cu, cu, longest, longest, **options)).view_as(q)

    return run


def _boundaries(q: Tensor, docs: PackDocuments | None) -> tuple[Tensor, int]:
    """Documents as they are, or every row of the batch as one document."""
    if docs is not None:
        return docs.cu_seqlens, docs.max_len
    batch, seq = q.shape[:2]
    return torch.arange(0, (batch + 1) * seq, seq, dtype=torch.int32, device=q.device), seq


def _first(out: Any) -> Tensor:
    """The output of a kernel that may return its LSE too."""
    tensor: Tensor = out[0] if isinstance(out, tuple) else out
    return tensor


_library = torch.library.Library("tgsbench", "FRAGMENT")
_library.define(
    "flash4_forward(Tensor q, Tensor k, Tensor v, Tensor? cu, int longest, float scale) -> (Tensor, Tensor)"
)


def flash4(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None) -> Tensor:
    """flash-attn 4, whose own functions call their kernels outside torch's dispatcher."""
    cu = None if docs is None else docs.cu_seqlens
    longest = 0 if docs is None else docs.max_len
    if docs is None:
        return _Flash4.apply(q, k, v, cu, longest, scale)  # type: ignore[no-any-return, no-untyped-call]
    rows = (x.flatten(0, 1) for x in (q, k, v))
    out: Tensor = _Flash4.apply(*rows, cu, longest, scale)  # type: ignore[no-untyped-call]
    return out.view_as(q)


def _flash4_forward(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor | None, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    assert _Flash4.module is not None
    bounds: dict[str, Any] = {}
    if cu is not None:
        bounds = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
    # Later versions return more than (out, lse).
    result = _Flash4.module._flash_attn_fwd(
        q, k, v, softmax_scale=scale, causal=True, return_lse=True, **bounds
    )
    return result[0], result[1]


_library.impl("flash4_forward", _flash4_forward, "CUDA")


class _Flash4(torch.autograd.Function):
    module: Any = None

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cu: Tensor | None, longest: int, scale: float
    ) -> Tensor:
        out, lse = torch.ops.tgsbench.flash4_forward(q, k, v, cu, longest, scale)
        ctx.save_for_backward(q, k, v, out, lse, cu)
        ctx.scale = scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse, cu = ctx.saved_tensors
        bounds = {} if cu is None else {"cu_seqlens_q": cu, "cu_seqlens_k": cu}
        dq, dk, dv = _Flash4.module._flash_attn_bwd(
            q, k, v, out, grads[0].contiguous(), lse, softmax_scale=ctx.scale, causal=True, **bounds
        )
        return dq, dk, dv, None, None, None
