"""Watch every operator of a step: FLOPs by operator, bytes by collective, live tensor memory."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tgsbench.schema.collective_kinds import BY_OPERATOR

ATTENTION_FORWARD = "aten::_scaled_dot_product_flash_attention"
ATTENTION_BACKWARD = "aten::_scaled_dot_product_flash_attention_backward"


@dataclass
class StreamCollective:
    """Calls and payload of one collective on this rank."""

    calls: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Block:
    """One live storage."""

    num_bytes: int
    op: str
    shape: tuple[int, ...]


@dataclass
class StreamPhase:
    """What one part of the run did."""

    flops: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes that operators without FLOPs of note read and write, by operator."""
    collectives: dict[str, StreamCollective] = field(default_factory=dict)
    num_ops: int = 0
    peak_bytes: int = 0
    peak_op: str = ""
    at_peak: dict[int, Block] = field(default_factory=dict)


class OperatorStream(TorchDispatchMode):
    """Sees every local operator under a FakeTensorMode; DTensor operators are seen as their local parts."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = fake
        self._live: dict[int, Block] = {}
        self._now = 0
        self.phase = StreamPhase()

    def begin(self) -> StreamPhase:
        """Start a new phase; live memory goes on."""
        self.phase = StreamPhase()
        return self.phase

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default and type(args[0]) is FakeTensor:
            # `tensor.device` of a fake tensor: two of three calls of a step, and no operator.
            return args[0].fake_device
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        self.phase.num_ops += 1
        count = _FLOPS.get(name)
        if count is not None:
            self.phase.flops[name] += count(args, out)
        if name in BY_OPERATOR:
            self._count(BY_OPERATOR[name], args, out)
        elif count is None and not _is_view(func):
            self.phase.moved[name] += sum(_sizes((args, out)))
        for tensor in tree_iter(out):
            if type(tensor) is FakeTensor and tensor.fake_mode is self._fake:
                self._add(tensor, name)
        return out

    def _count(self, collective: str, args: tuple[Any, ...], out: Any) -> None:
        """A collective's bytes are the larger of what goes in and what comes out."""
        entry = self.phase.collectives.setdefault(collective, StreamCollective())
        entry.calls += 1
        entry.num_bytes += max(_sizes((args, out)))

    def _add(self, tensor: Tensor, name: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            weakref.finalize(storage, self._drop, key)
        if known is None or known.op != "host":
            self._set(key, Block(size, name, tuple(tensor.shape)) if known is None else known, size)

    def _set(self, key: int, block: Block, size: int) -> None:
        before = self._live[key].num_bytes if key in self._live else 0
        self._live[key] = Block(size, block.op, block.shape)
        self._now += size - before
        if self._now > self.phase.peak_bytes:
            self.phase.peak_bytes, self.phase.peak_op = self._now, block.op
            self.phase.at_peak = dict(self._live)

    def _drop(self, key: int) -> None:
        block = self._live.pop(key, None)
        if block is not None:
            self._now -= block.num_bytes

    def on_host(self, tensor: Tensor) -> None:
        """A tensor that a GPU's host would hold: it is no part of the live memory."""
        key = tensor.untyped_storage()._cdata
        block = self._live[key]
        self._set(key, Block(0, "host", block.shape), 0)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Account for FSDP, which frees gathered parameters by resizing their storage to nothing."""
        block = self._live.get(storage._cdata)
        if block is not None:
            self._set(storage._cdata, block, storage.nbytes())


@contextmanager
def watch_resizes(stream: OperatorStream) -> Iterator[None]:
    """Tell the stream of every storage that is resized; no operator does that, so no mode sees it."""
    original = torch.UntypedStorage.resize_

    def resize(self: torch.UntypedStorage, size: int) -> Any:
        result = original(self, size)
        stream.resized(self)
        return result

    torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]


def _sizes(tree: Any) -> list[int]:
    return [t.numel() * t.element_size() for t in tree_iter(tree) if isinstance(t, Tensor)]


_NO_KERNEL = ("prim::device", "aten::_unsafe_view", "aten::empty", "aten::empty_like", "aten::empty_strided")


def _is_view(func: Any) -> bool:
    """An operator that moves nothing: its results alias arguments that it does not write, or are unset."""
    if func._schema.name in _NO_KERNEL:
        return True
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _matmul(args: tuple[Any, ...], out: Any) -> int:
    return 2 * int(out.numel()) * int(args[0].shape[-1])


def _addmm(args: tuple[Any, ...], out: Any) -> int:
    return 2 * int(out.numel()) * int(args[1].shape[-1])


def _grouped(args: tuple[Any, ...], _out: Any) -> int:
    """Rows [T, k] of several experts times [E, k, n] by offsets, or their gradient [k, T] times [T, n].

    torch's own FlopCounterMode (2.13) takes both for free.
    """
    rows, weights = args[0], args[1]
    return 2 * int(rows.shape[-2]) * int(rows.shape[-1]) * int(weights.shape[-1])


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    """Each value made takes its filter's values: [out, in / groups, width…]."""
    return 2 * int(out.numel()) * int(args[1].shape[1:].numel())


def _triangular(args: tuple[Any, ...], out: Any) -> int:
    """n² products for each column that is solved for."""
    return int(out.numel()) * int(args[0].shape[-1])


def _attention(args: tuple[Any, ...], _out: Any) -> int:
    """Q·Kᵀ and P·V over the causal half of the square; q is [B, a, S, d]."""
    batch, heads, seq, dim = args[0].shape
    return int(2 * batch * heads * seq * seq * dim)


def _attention_backward(args: tuple[Any, ...], out: Any) -> int:
    """Five products where the forward has two: FlashAttention's convention."""
    return _attention(args[1:], out) * 5 // 2


_FLOPS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::addmm": _addmm,
    "aten::addmm_": _addmm,
    "aten::baddbmm": _addmm,
    "aten::_grouped_mm": _grouped,
    "aten::convolution": _convolution,
    "aten::linalg_solve_triangular": _triangular,
    ATTENTION_FORWARD: _attention,
    ATTENTION_BACKWARD: _attention_backward,
}
