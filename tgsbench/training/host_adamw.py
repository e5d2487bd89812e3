"""AdamW whose states wait in host memory and pass the device piece by piece.

The step runs on the device: 8 bytes of moments a parameter go each way over PCIe, both ways at once, 0.16 s
for 1e9 parameters at 50 GB/s. A rank's share of a host's cores moves 40 bytes at 12 GB/s: 3.3 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tgsbench.systems.host_states import PIECE_VALUES, PIECES_AT_ONCE
from tgsbench.training.clipping import gradient_norm, scale_to
from tgsbench.training.parallel.mesh import ExpertMesh
from tgsbench.training.parallel.offload import PageLocked


class _Piece(NamedTuple):
    """So many values of one shard, flat views; what is away lies on the host."""

    group: dict[str, Any]
    step: Tensor
    away: Sequence[Tensor]
    """The moments; where parameters are away, parameter and gradient too."""
    here: Sequence[Tensor]
    """Parameter and gradient where they lie on the device."""


class HostAdamW(torch.optim.AdamW):
    """AdamW as torch's fused kernel computes it, the same bits; on a CPU the same code runs, for tests.

    `all_away`: parameters and their gradients lie on the host too.
    """

    def __init__(
        self, groups: list[dict[str, Any]], device: torch.device, all_away: bool, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self._device, self.all_away = device, all_away
        self._scale: Tensor | None = None
        self._locked = PageLocked("optimizer states", "engine.offload=none")
        for parameter in self._parameters():
            self.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": self._zeros(local_part(parameter)),
                "exp_avg_sq": self._zeros(local_part(parameter)),
            }

    def clip(self, max_norm: float, experts: ExpertMesh | None) -> Tensor:
        """The norm of gradients that are away; the step scales them as it meets them."""
        gradients = (parameter.grad for parameter in self._parameters() if parameter.grad is not None)
        norm = gradient_norm(gradients, experts, self._device)
        self._scale = scale_to(max_norm, norm)
        return norm

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; what is away is there when this returns."""
        assert closure is None
        owned = [parameter for parameter in self._parameters() if parameter.grad is not None]
        torch._foreach_add_([self.state[parameter]["step"] for parameter in owned], 1.0)
        largest = max((local_part(parameter).numel() for parameter in owned), default=0)
        with _Passage(self._device, min(PIECE_VALUES, largest), 4 if self.all_away else 2) as passage:
            for piece in self._pieces():
                came = passage.fetch(piece.away)
                self._update(piece, (*came, *piece.here))
                passage.send(came[:3], piece.away[:3])  # the gradient, the fourth, is as it was
        self._scale = None

    def _update(self, piece: _Piece, tensors: Sequence[Tensor]) -> None:
        exp_avg, exp_avg_sq, parameter, gradient = tensors
        if self._scale is not None:
            gradient.mul_(self._scale)
        group = piece.group
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            [parameter], [gradient], [exp_avg], [exp_avg_sq], [], [piece.step], lr=group["lr"], beta1=beta1,
            beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    def _pieces(self) -> Iterator[_Piece]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and local_part(parameter).numel():
                    yield from self._pieces_of(parameter, group)

    def _pieces_of(self, parameter: nn.Parameter, group: dict[str, Any]) -> Iterator[_Piece]:
        state = self.state[parameter]
        assert parameter.grad is not None
        tensors = (state["exp_avg"], state["exp_avg_sq"], parameter, parameter.grad)
        num_away = 4 if self.all_away else 2
        for views in zip(*(local_part(x).view(-1).split(PIECE_VALUES) for x in tensors), strict=True):
            yield _Piece(group, state["step"], views[:num_away], views[num_away:])

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _zeros(self, like: Tensor) -> Tensor:
        """A host tensor of zeros, which the device writes: nothing waits for pages that the host clears."""
        host = torch.empty(like.shape, dtype=like.dtype, device="cpu")
        if host.numel() and self._device.type == "cuda":
            self._locked.lock(host)
        for piece in host.view(-1).split(PIECE_VALUES):
            piece.copy_(torch.zeros_like(piece, device=self._device))
        return host


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a parameter or gradient, or a plain tensor itself."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


class _Passage:
    """Buffers on the device that host tensors pass through, some on their way in, others on their way out."""

    def __init__(self, device: torch.device, num_values: int, num_tensors: int) -> None:
        shape = (PIECES_AT_ONCE, num_tensors, num_values)
        self._buffers = torch.empty(shape, dtype=torch.float32, device=device)
        self._cuda, self._turn = device.type == "cuda", 0
        self._compute = torch.cuda.current_stream(device) if self._cuda else None
        self._in, self._out = ((torch.cuda.Stream(device) if self._cuda else None) for _ in range(2))
        self._sent: list[torch.cuda.Event | None] = [None] * PIECES_AT_ONCE

    def __enter__(self) -> _Passage:
        _wait(self._in, self._compute)
        return self

    def __exit__(self, *exc: object) -> None:
        """Buffers are free again for the device, and the host may read what was sent."""
        _wait(self._compute, self._in)
        _wait(self._compute, self._out)
        if self._out is not None:
            self._out.synchronize()

    def fetch(self, away: Sequence[Tensor]) -> list[Tensor]:
        """Copies of host tensors on the device, for the stream that computes."""
        rows = self._buffers[self._turn]
        came = [row[: len(host)] for row, host in zip(rows, away, strict=True)]
        with _on(self._in):
            if self._in is not None and (sent := self._sent[self._turn]) is not None:
                self._in.wait_event(sent)
            for here, host in zip(came, away, strict=True):
                here.copy_(host, non_blocking=self._cuda)
        _wait(self._compute, self._in)
        return came

    def send(self, came: Sequence[Tensor], away: Sequence[Tensor]) -> None:
        """Write what came, as it is now, back to the host; the next fetch is into other buffers."""
        _wait(self._out, self._compute)
        with _on(self._out):
            for here, host in zip(came, away, strict=True):
                host.copy_(here, non_blocking=self._cuda)
            self._sent[self._turn] = self._out.record_event() if self._out is not None else None
        self._turn = (self._turn + 1) % PIECES_AT_ONCE


def _wait(stream: torch.cuda.Stream | None, other: torch.cuda.Stream | None) -> None:
    if stream is not None and other is not None:
        stream.wait_stream(other)


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    return torch.cuda.stream(stream) if stream is not None else nullcontext()
