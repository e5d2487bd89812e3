"""Activation checkpointing by layer: full, selective, none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from tgsbench.schema import spans
from tgsbench.schema.preset import Checkpointing
from tgsbench.training.attention.kept import Keeping, KeptResults, Replaying
from tgsbench.training.model.whole_layer import WholeLayer
from tgsbench.training.parallel.offload import HostOffload, offload
from tgsbench.training.parallel.tracing import span
from tgsbench.training.parallel.ulysses import ALL_TO_ALL

_ATTENTION_OPS = (
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_flash_attention_forward",
    "torch_attn::_varlen_attn",  # torch.nn.attention.varlen
    "flash_attn::_flash_attn_forward",  # flash-attn 2
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::_flash_attn_forward",  # flash-attn 3, dense and varlen
    "flash_attn_3::fwd",  # its builds before custom ops
    "tgsbench::ring_forward",  # all steps of a ring: nothing is sent again
    "tgsbench::flash4_forward",  # flash-attn 4, which registers no op of its own
)
"""Forward ops whose results a selective checkpoint keeps: attention's output and LSE.
Those that this build lacks are skipped."""

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def wrap_layer(
    layer: nn.Module, mode: Checkpointing, stash: HostOffload | None = None, kept_ops: tuple[str, ...] = ()
) -> nn.Module:
    """Wrap one decoder layer so that its activations are recomputed in the backward as `mode` says.

    Its input, which every mode but `none` keeps, goes into `stash` if there is one. `kept_ops` are ops of the
    engine, as `namespace::name`, whose results `selective` keeps too.
    """
    if isinstance(layer, WholeLayer):
        layer.checkpointing, layer.kept_ops = mode, saved_ops(*kept_ops)
        layer.stash = stash if mode != "none" else None
        return layer
    if mode == "none":
        return layer
    contexts: Callable[[], Contexts] = _full_contexts
    if mode == "selective":
        contexts = functools.partial(_selective_contexts, saved_ops(*kept_ops))
    wrapped = checkpoint_wrapper(layer, context_fn=contexts, preserve_rng_state=False)
    if stash is not None:
        offload(wrapped, stash)
    return wrapped


@functools.cache
def saved_ops(*others: str) -> frozenset[torch._ops.OpOverload]:
    """Ops whose results are saved: attention kernels of this build, our all-to-all, and those of `others`."""
    found = {ALL_TO_ALL}
    for qualified in (*_ATTENTION_OPS, *others):
        space, name = qualified.split("::")
        packet = getattr(getattr(torch.ops, space), name, None)
        if packet is not None:
            found.update(getattr(packet, overload) for overload in packet.overloads())
    return frozenset(found)


def _full_contexts() -> Contexts:
    return nullcontext(), span(spans.RECOMPUTE)


def _selective_contexts(saved: frozenset[Any]) -> Contexts:
    # Not torch's own: it takes an op that was not in the forward for a fault, and an engine gathers in the
    # backward parameters that were there in the forward.
    kept = KeptResults(saved)
    return Keeping(kept), _Both(span(spans.RECOMPUTE), Replaying(kept))


class _Both:
    """Two contexts entered as one."""

    def __init__(self, *contexts: AbstractContextManager[Any]) -> None:
        self._contexts = contexts
        self._stack = ExitStack()

    def __enter__(self) -> None:
        for context in self._contexts:
            self._stack.enter_context(context)

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)
