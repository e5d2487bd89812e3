"""torch's fake process group, whose collectives only copy, whatever the version of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

_LEFT_ALONE = ("all_to_all_single", "reduce_scatter_tensor")
"""What torch 2.11's fake group does not write: outputs hold what the allocator gave, NaN included."""


def join_fake_group(world_size: int) -> None:
    """Make this process rank 0 of so many; what is received are this rank's own values, finite and random."""
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    dist.batch_isend_irecv = _answered(dist.batch_isend_irecv)
    if not _copies():
        for name in _LEFT_ALONE:
            setattr(dist, name, _copying(getattr(dist, name)))


def _answered(batch: Callable[..., Any]) -> Callable[..., Any]:
    """Messages that bring what was sent: the fake group writes nothing to what is received."""

    @functools.wraps(batch)
    def answered(messages: list[dist.P2POp]) -> Any:
        works = batch(messages)
        if dist.get_backend(messages[0].group) == "fake":
            sent = {message.tag: message.tensor for message in messages if message.op is dist.isend}
            for message in messages:
                if message.op is dist.irecv:
                    message.tensor.copy_(sent[message.tag])
        return works

    return answered


def _copies() -> bool:
    received, sent = torch.zeros(dist.get_world_size()), torch.ones(dist.get_world_size())
    dist.all_to_all_single(received, sent)
    return bool(received.eq(1).all())


def _copying(collective: Callable[..., Any]) -> Callable[..., Any]:
    """A collective that leaves the first part of its input in its output."""

    @functools.wraps(collective)
    def copying(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        work = collective(output, input, *args, **kwargs)
        if dist.get_backend(kwargs.get("group")) == "fake":
            output.view(-1).copy_(input.reshape(-1)[: output.numel()])
        return work

    return copying
