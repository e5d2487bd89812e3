"""A short measurement of one attention kernel at one shape."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tgsbench.models.spec import local_kv_heads
from tgsbench.schema.preset import Preset
from tgsbench.training.attention.documents import PackDocuments, documents
from tgsbench.training.attention.windowed import Own

_PROBE_DOCUMENT_LEN = 512
_PROBE_MAX_LEN = 16_384


@dataclass(frozen=True)
class KernelShape:
    """The shape a kernel is tried at: what one rank attends with."""

    seq_len: int = 8192
    num_query_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16
    document_mask: bool = False
    window: int = 0
    """Of the layers that have one: such layers need a kernel that knows windows."""
    sinks: bool = False

    def __str__(self) -> str:
        heads = f"{self.num_query_heads}/{self.num_kv_heads} heads of {self.head_dim}"
        mask = f", documents of {_PROBE_DOCUMENT_LEN}" if self.document_mask else ""
        return f"{self.seq_len:,} tokens, {heads}{mask}"

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v as leaves that need gradients, and the gradient of the output; random, not zeros."""
        generator = torch.Generator(device).manual_seed(0)

        def draw(heads: int) -> Tensor:
            shape = (1, self.seq_len, heads, self.head_dim)
            return torch.randn(shape, device=device, dtype=self.dtype, generator=generator)

        q, k, v = (draw(n).requires_grad_() for n in (self.num_query_heads, *(self.num_kv_heads,) * 2))
        return q, k, v, draw(self.num_query_heads)

    def own(self, device: torch.device) -> Own:
        """What its layers have beside causal attention: a window, sinks of zero."""
        return Own(self.window, torch.zeros(self.num_query_heads, device=device) if self.sinks else None)

    def documents(self, device: torch.device) -> PackDocuments | None:
        """Equal documents, or None when attention is causal over the whole pack."""
        if not self.document_mask:
            return None
        bounds = [*range(0, self.seq_len, _PROBE_DOCUMENT_LEN), self.seq_len]
        return documents(torch.tensor(bounds, dtype=torch.int32), device)


def kernel_shape_of(preset: Preset) -> KernelShape:
    """What one rank of a preset attends with, its sequence cut to 16k tokens so that the probe is short."""
    shape, sp = preset.model, preset.parallel.sp
    return KernelShape(
        seq_len=min(preset.workload.seq_len, _PROBE_MAX_LEN),
        num_query_heads=shape.num_query_heads // sp,
        num_kv_heads=local_kv_heads(shape, sp),
        head_dim=shape.head_dim,
        dtype=getattr(torch, preset.training.compute_dtype),
        document_mask=preset.workload.document_mask,
        window=shape.window,
        sinks=shape.family == "gpt_oss",
    )


def forward_backward_s(
    run: Callable[..., Tensor], probe: KernelShape, device: torch.device, repeats: int = 3
) -> float:
    """Median seconds of one forward and backward on a CUDA device, after two that warm up."""
    *inputs, grad = probe.tensors(device)
    docs, own = probe.documents(device), probe.own(device)
    extra = {} if own.is_plain else {"own": own}

    def once() -> None:
        out = run(*inputs, probe.head_dim**-0.5, docs, **extra)
        torch.autograd.grad(out, inputs, grad)

    for _ in range(2):
        once()
    return statistics.median(cuda_seconds(once) for _ in range(repeats))


def cuda_seconds(work: Callable[[], object]) -> float:
    """Seconds that queued work takes on the current CUDA stream, by events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
