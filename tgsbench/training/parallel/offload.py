"""Layer inputs of activation checkpoints in host memory, copied on a stream beside the computation.

A step of 16 layers at 1M tokens of Llama3.2-1B keeps 64 GiB of layer inputs; on the host they cost PCIe
bandwidth instead: 4 GiB a layer at 50 GB/s are 86 ms, beside seconds of attention.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from tgsbench.errors import ExitCode, TgsError
from tgsbench.units import gib


@dataclass
class _Slot:
    """One tensor that waits: its host copy, and its device copy once that is on its way back."""

    host: Tensor
    device: torch.device
    left: torch.cuda.Event | None = None
    on_device: Tensor | None = None
    arrived: torch.cuda.Event | None = None


class PageLocked:
    """Host tensors that a GPU copies beside computation, each locked at its own size, until this is gone.

    torch's own pinned blocks are rounded up to powers of two: 5.4 GiB of a layer's input took 8.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self._locked: list[Tensor] = []
        # Not at exit: the driver does it then, and may be gone before.
        weakref.finalize(self, _unlock, self._locked).atexit = False

    def lock(self, host: Tensor) -> None:
        """Lock a tensor's pages, and keep it. Raises TgsError where the host locks no more."""
        if error := int(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0)):
            raise TgsError(
                f"the host locks no {gib(host.nbytes)} for {self._what} beside {len(self._locked)} others "
                f"(CUDA error {error})",
                hint=f"more host memory for the job, or --set {self._remedy}",
                exit_code=ExitCode.DOES_NOT_FIT,
            )
        self._locked.append(host)


def _unlock(locked: list[Tensor]) -> None:
    """An address that is registered can be registered no more: blocks that come later may lie there."""
    for host in locked:
        torch.cuda.cudart().cudaHostUnregister(host.data_ptr())
    locked.clear()


class HostOffload:
    """Takes layer inputs in the order of the forward and gives them back in reverse, each as often as asked.

    So it does with the blocks of chunks of a sequence: one stream has all copies, in the order in which they
    were asked for, so that a buffer that is free may be written at once. Host buffers are pinned once and
    used again in every step. On a CPU there is no second stream and no saving; the same code runs, for tests.
    """

    def __init__(self, hidden_size: int, device: torch.device, locked: PageLocked | None = None) -> None:
        self._hidden_size = hidden_size
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._slots: list[_Slot | None] = []
        self.on_host: Callable[[Tensor], None] = lambda _: None
        """Told of each new host buffer: where fake tensors stand for a GPU's, host and device look alike."""
        self._blocks = locked or PageLocked("a layer's input", "engine.activation_offload=false")
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def hooks(self) -> AbstractContextManager[Any]:
        """What a layer's forward runs in, so that its saved input goes to the host."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def keep(self, tensor: Tensor) -> int:
        """Start a layer input's copy to the host; the number that it comes back by."""
        buffers = self._free.setdefault((tensor.shape, tensor.dtype), [])
        host = buffers.pop() if buffers else self._pinned(tensor)
        with self._beside(tensor):
            host.copy_(tensor, non_blocking=self._cuda)
            left = self._stream.record_event() if self._stream is not None else None
        self._slots.append(_Slot(host, tensor.device, left))
        return len(self._slots) - 1

    def wait_until_left(self, index: int) -> None:
        """What is computed from here on may overwrite the tensor that was kept."""
        slot = self._slots[index]
        if slot is not None and slot.left is not None:
            torch.cuda.current_stream(slot.device).wait_event(slot.left)

    def ahead(self, index: int) -> None:
        """Start an input's copy back to the device, unless it is under way or there is none."""
        slot = self._slots[index] if index >= 0 else None
        if slot is None or slot.on_device is not None:
            return
        slot.on_device = torch.empty(slot.host.shape, dtype=slot.host.dtype, device=slot.device)
        with self._beside(slot.on_device):
            slot.on_device.copy_(slot.host, non_blocking=self._cuda)
            if self._stream is not None:
                slot.arrived = self._stream.record_event()

    def bring(self, index: int) -> Tensor:
        """An input on the device, whose stream waits for it and not the host; who drops it may ask again."""
        self.ahead(index)
        slot = self._slots[index]
        assert slot is not None and slot.on_device is not None
        if slot.arrived is not None:
            torch.cuda.current_stream(slot.device).wait_event(slot.arrived)
        tensor, slot.on_device = slot.on_device, None
        return tensor

    def release(self, index: int) -> None:
        """Nobody asks for this input again: its host buffer is free."""
        slot, self._slots[index] = self._slots[index], None
        assert slot is not None
        self._free[slot.host.shape, slot.host.dtype].append(slot.host)
        while self._slots and self._slots[-1] is None:
            self._slots.pop()

    def _pinned(self, tensor: Tensor) -> Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        if self._cuda:
            self._blocks.lock(host)
        self.on_host(host)
        return host

    def _pack(self, tensor: Tensor) -> Tensor | int:
        # Only [B, s, h]: the rotary angles are shared by all layers, and parameters stay where they are.
        is_input = tensor.ndim == 3 and tensor.shape[-1] == self._hidden_size
        return self.keep(tensor) if is_input else tensor

    def _unpack(self, packed: Tensor | int) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        tensor = self.bring(packed)
        self.release(packed)
        self.ahead(packed - 1)  # the next layer's input comes while this layer's backward runs
        return tensor

    def _beside(self, tensor: Tensor) -> AbstractContextManager[Any]:
        """Work on the side stream that comes after what is queued, and that `tensor` must outlive."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        tensor.record_stream(self._stream)
        return torch.cuda.stream(self._stream)


class OffloadedCheckpoint(CheckpointWrapper):
    """A checkpointed layer whose input waits on the host."""

    stash: HostOffload

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives."""
        with self.stash.hooks():
            return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]


def offload(layer: nn.Module, stash: HostOffload) -> None:
    """Make a checkpointed layer keep its input in `stash`."""
    assert type(layer) is CheckpointWrapper, type(layer)
    layer.__class__ = OffloadedCheckpoint
    object.__setattr__(layer, "stash", stash)
