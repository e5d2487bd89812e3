"""FSDP's buffers in memory of the stream that computes.

torch's allocator gives a block back to the stream that it was taken on, and to no other. FSDP takes gathered
parameters on one stream of its own and gradients on another: the 8 GiB of Llama2-70B's gradients on 32 GPUs
stay reserved while the forward is at its peak and has no gradient yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import SymInt, Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter


def share_memory(root: nn.Module, in_order: Sequence[FSDPModule], device: torch.device) -> None:
    """Gather and reduce in memory of the current stream.

    `root` is sharded, and so are the modules below it, which run `in_order`.
    """
    assert isinstance(root, FSDPModule)
    # Issued behind a layer, a gather on the stream that computes would wait for it: issue it before.
    for module, following in itertools.pairwise(in_order):
        module.set_modules_to_forward_prefetch([following])
    root._set_unshard_async_op(True)
    comm = _ReduceScatter(device)
    for module in (root, *in_order):
        module.set_custom_reduce_scatter(comm)


class _ReduceScatter(DefaultReduceScatter):
    """FSDP's own, but for where its result lies.

    What had the block before ran on the stream that computes: the one that reduces waits for that.
    """

    def __init__(self, device: torch.device) -> None:
        self._compute = torch.cuda.current_stream(device)

    def allocate(self, size: Sequence[int | SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for the current stream."""
        user = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._compute):
            buffer = torch.empty(*size, dtype=dtype, device=device)
        if user != self._compute:
            user.wait_stream(self._compute)
            buffer.record_stream(user)
        return buffer
