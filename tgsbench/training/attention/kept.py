"""Attention whose forward and backward are asked for apart, with its results kept in between or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [B, S, a, d], k and v [B, S, n, d] -> [B, S, a, d]."""


@dataclass
class KeptResults:
    """What the attention ops of one forward returned, in their order."""

    ops: frozenset[Any]
    """Ops whose results are kept; those of all others are computed again."""
    results: deque[Any] = field(default_factory=deque)


class Keeping(TorchDispatchMode):
    """Runs everything, and keeps what the ops of `kept` return."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A compiled layer may run inside."""
        return True

    def __init__(self, kept: KeptResults) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self._kept.ops:
            # Autograd writes its graph into the tensors that are returned.
            self._kept.results.append(tree_map_only(Tensor, Tensor.detach, result))
        return result


class Replaying(TorchDispatchMode):
    """Gives what was kept, in its order, and runs everything else, whether it was in the forward or not."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A compiled layer may run inside."""
        return True

    def __init__(self, kept: KeptResults) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._kept.ops:
            return self._kept.results.popleft()
        return func(*args, **(kwargs or {}))


def attend_keeping(attend: Attend, q: Tensor, k: Tensor, v: Tensor, kept: KeptResults) -> Tensor:
    """Run attention outside autograd; what its kernels return goes to `kept`."""
    with torch.no_grad(), Keeping(kept):
        return attend(q, k, v)


class HasRun(Protocol):
    """Attention that waits for its backward."""

    def backward(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k and v."""
        ...


@dataclass
class AttentionGraph:
    """Attention that has run, with what autograd needs for its backward."""

    inputs: tuple[Tensor, ...]
    out: Tensor

    def backward(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k and v."""
        grads = torch.autograd.grad(self.out, self.inputs, grad, allow_unused=True)
        pairs = zip(grads, self.inputs, strict=True)
        return tuple(torch.zeros_like(x) if grad is None else grad for grad, x in pairs)


def attend_again(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, kept: KeptResults | None = None
) -> AttentionGraph:
    """Run attention for its backward: with what was kept its kernels do not run again."""
    inputs = tuple(x.detach().requires_grad_() for x in (q, k, v))
    with torch.enable_grad():
        if kept is None:
            return AttentionGraph(inputs, attend(*inputs))
        with Replaying(kept):
            return AttentionGraph(inputs, attend(*inputs))
