"""Attention kernels behind one call: q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d], causal."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.training.attention import flash
from tgsbench.training.attention.documents import Bucket, PackDocuments
from tgsbench.training.attention.kernel_timing import KernelShape, forward_backward_s
from tgsbench.training.attention.windowed import PLAIN, Own, blockwise
from tgsbench.training.model.cpu_bf16 import widened

AttentionFn = Callable[..., Tensor]
"""(q, k, v, scale, documents), and `own=` for layers with a window or sinks."""

CUDA_KERNELS = ("flash4", "flash3", "flash2", "cudnn", "sdpa")
"""What `auto` measures on CUDA without a document mask; the first wins a tie."""
CUDA_DOCUMENT_KERNELS = ("flash4", "flash3", "flash2", "varlen", "sdpa")
"""The same with a document mask: kernels with a varlen form, and bucketed SDPA."""


_LONG_TOKENS = 4096
"""From here on a CPU gains by `_by_kv_head`."""
_BACKEND_TOKENS = 128
"""Whether torch has a kernel depends on dtype, head dimension and groups, not on length."""


@dataclass(frozen=True)
class AttentionKernel:
    """An attention kernel, its version, and why it was chosen."""

    name: str
    version: str
    run: AttentionFn
    reason: str = ""


def choose(
    name: str, device: torch.device, document_mask: bool, probe: KernelShape | None = None
) -> AttentionKernel:
    """The kernel a preset names, or for `auto` the fastest at the probe's shape.

    On CUDA every kernel that imports is timed forward and backward, and all ranks take the first rank's
    choice; a CPU has one kernel. Raises TgsError when the named kernel cannot run here.
    """
    shape = probe or KernelShape()
    able = _able(shape)
    if able and name not in (*able, "auto"):
        why = "it has no sinks" if shape.sinks else "it has no windows"
        raise _missing(name, why, f"engine.kernel={able[-1]} has them")
    if device.type != "cuda":
        reason = "the only kernel of a CPU" if name == "auto" else "the preset names it"
        return dataclasses.replace(make("sdpa" if name == "auto" else name, device), reason=reason)
    if name == "auto":
        names = CUDA_DOCUMENT_KERNELS if document_mask else CUDA_KERNELS
        return _naming_backend(_fastest(able or names, device, shape), shape, device)
    return _naming_backend(
        dataclasses.replace(make(name, device), reason="the preset names it"), shape, device
    )


def _naming_backend(kernel: AttentionKernel, shape: KernelShape, device: torch.device) -> AttentionKernel:
    """SDPA chooses again among torch's own kernels: the reason says which it will be."""
    if kernel.name != "sdpa" or _able(shape):
        return kernel
    reason = f"{kernel.reason}; torch's {sdpa_backend(shape, device)} attention"
    return dataclasses.replace(kernel, reason=reason)


def _able(probe: KernelShape) -> tuple[str, ...]:
    """Kernels that can run layers with sinks or a window; empty: the shape has none, and any can."""
    if probe.sinks:
        return ("varlen", "sdpa")
    return ("flash3", "flash2", "varlen", "sdpa") if probe.window else ()


def make(name: str, device: torch.device) -> AttentionKernel:
    """A kernel by name, imported but not run; TgsError when it cannot run on this device."""
    if name == "sdpa":
        return AttentionKernel("sdpa", str(torch.__version__), sdpa)
    if device.type != "cuda":
        raise _missing(name, "it needs a CUDA device", "engine.kernel=sdpa runs everywhere")
    try:
        if name == "cudnn":
            return AttentionKernel("cudnn", str(torch.backends.cudnn.version()), cudnn)
        version, run = flash.LOADERS[name]()
    except Exception as error:  # a package that was built for another torch raises anything
        raise _missing(name, f"{type(error).__name__}: {error}", flash.INSTALL[name]) from error
    return AttentionKernel(name, version, run)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None, own: Own = PLAIN
) -> Tensor:
    """torch's scaled_dot_product_attention without cuDNN; documents go in buckets of similar length."""
    if not own.is_plain:
        return _with_documents(q, k, v, scale, docs, functools.partial(blockwise, own=own))
    if not q.is_cuda:
        return _with_documents(q, k, v, scale, docs)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return _with_documents(q, *_heads_for_fused(q, k, v), scale, docs)


def _heads_for_fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """k and v, with as many heads as q where no fused kernel takes fewer (dims are S and heads: 1 and 2).

    In fp32 the efficient kernel is the only fused one, and it knows no groups: with them torch computes
    S x S scores (2.3 GiB at 2k tokens).
    """
    group = q.shape[2] // k.shape[2]
    if group == 1 or q.dtype != torch.float32:
        return k, v
    return k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)


def sdpa_backend(probe: KernelShape, device: torch.device) -> str:
    """Which of torch's own kernels SDPA takes for tensors of this kind: flash, efficient or math."""
    q, k, v, _ = dataclasses.replace(probe, seq_len=_BACKEND_TOKENS).tensors(device)
    k, v = _heads_for_fused(q, k, v)
    is_grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    params = SDPAParams(q, k, v, None, 0.0, True, is_grouped)
    if can_use_flash_attention(params):
        return "flash"
    return "efficient" if can_use_efficient_attention(params) else "math, which takes S x S memory"


def cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, docs: PackDocuments | None) -> Tensor:
    """SDPA pinned to cuDNN's fused attention; KV heads are repeated where this torch needs that."""
    group = q.shape[2] // k.shape[2]
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        if group > 1 and not _cudnn_takes_gqa(q, k, v):
            k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
        return _with_documents(q, k, v, scale, docs)


def _cudnn_takes_gqa(q: Tensor, k: Tensor, v: Tensor) -> bool:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, True, True))


def _with_documents(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    docs: PackDocuments | None,
    attend: Callable[[Tensor, Tensor, Tensor, float], Tensor] | None = None,
) -> Tensor:
    attend = attend or _causal
    if docs is None:
        return attend(q, k, v, scale)
    out = torch.empty_like(q)
    for bucket in docs.buckets:
        out = _attend_bucket(out, q, k, v, scale, bucket, attend)
    return out


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    # On a CPU without bf16 products SDPA's backward takes 5 times as long in bf16 as in fp32.
    wide = [widened(x) for x in (q, k, v)]
    if q.device.type != "cpu" or q.shape[1] < _LONG_TOKENS:
        heads_first = _attended([x.transpose(1, 2) for x in wide], scale)
        return heads_first.transpose(1, 2).to(q.dtype)
    out = _attended([_by_kv_head(x, k.shape[2]) for x in wide], scale)
    by_token: Tensor = out.transpose(1, 2).unflatten(0, (q.shape[0], -1)).transpose(1, 2)
    return by_token.reshape(q.shape).to(q.dtype)


def _attended(heads_first: Sequence[Tensor], scale: float) -> Tensor:
    """Causal, of q, k and v [B, a or n, S, d]."""
    q, k, v = heads_first
    return functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _by_kv_head(x: Tensor, kv_heads: int) -> Tensor:
    """[B, S, a or n, d] -> [B·n, a/n or 1, S, d], with what attends to one KV head side by side.

    A CPU's kernel goes over the rows of a head many times, and so over what lies between them: at 8k
    attention takes 4 to 6 % less, these copies included; at 2k nothing is gained, and at 1k they cost more.
    """
    batch, seq, _, dim = x.shape
    return x.transpose(1, 2).reshape(batch * kv_heads, -1, seq, dim).contiguous()


def _attend_bucket(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    bucket: Bucket,
    attend: Callable[[Tensor, Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Attention of one bucket's documents, scattered into `out` [B, S, a, d]."""
    batch, _, heads, dim = q.shape
    n, width = bucket.index.shape
    flat = bucket.index.flatten()

    def gather(x: Tensor) -> Tensor:
        return x[:, flat].reshape(batch * n, width, x.shape[2], dim)

    part = attend(gather(q), gather(k), gather(v), scale).reshape(batch, n * width, heads, dim)
    return out.index_copy(1, bucket.positions, part[:, bucket.rows])


def _fastest(names: tuple[str, ...], device: torch.device, probe: KernelShape) -> AttentionKernel:
    """Time every kernel that runs here; the reason says what each took."""
    times_s: dict[str, float] = {}
    kernels: dict[str, AttentionKernel] = {}
    for name in names:
        try:
            kernels[name] = make(name, device)
            times_s[name] = forward_backward_s(kernels[name].run, probe, device)
        except Exception as error:  # noqa: BLE001 - a JIT may raise anything; such a kernel is no candidate
            times_s.pop(name, None)
            kernels.pop(name, None)
            last_error = error
    torch.cuda.empty_cache()
    if not times_s:
        raise TgsError(
            f"no attention kernel runs here: {last_error}",
            hint="set engine.kernel",
            exit_code=ExitCode.CRASHED,
        )
    best = _agreed(min(times_s, key=times_s.__getitem__), names, device)
    if best not in kernels:
        raise _missing(
            best, "rank 0 chose it, and this rank lacks it", "install the same packages everywhere"
        )
    ordered = sorted(times_s.items(), key=lambda pair: pair[1])
    measured = ", ".join(f"{name} {units.three(seconds * 1e3)} ms" for name, seconds in ordered)
    return dataclasses.replace(kernels[best], reason=f"measured forward and backward, {probe}: {measured}")


def _agreed(best: str, names: tuple[str, ...], device: torch.device) -> str:
    """Rank 0's choice, so that no rank waits for a slower kernel of another."""
    if not dist.is_initialized() or dist.get_world_size() == 1 or dist.get_backend() == "fake":
        return best
    index = torch.tensor(names.index(best), device=device)
    dist.broadcast(index, src=0)
    return names[int(index)]


def _missing(name: str, why: str, hint: str) -> TgsError:
    return TgsError(
        f"attention kernel {name!r} cannot run here: {why}", hint=hint, exit_code=ExitCode.MISSING_DEPENDENCY
    )
