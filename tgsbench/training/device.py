"""Clock, memory and identity of the device a rank trains on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class MemoryReading:
    """Bytes: in tensors, held by the allocator, and the peak since the last reset."""

    allocated: int
    reserved: int
    peak: int


def pick_device(kind: str, local_rank: int) -> torch.device:
    """The rank's device; CUDA's becomes current."""
    if kind == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The name that the driver reports, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def synchronised_clock(device: torch.device) -> float:
    """Seconds on a monotonic clock once the device has finished what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class MemoryMeter:
    """Reads memory: CUDA's allocator, or the resident set of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process(os.getpid())

    def reset_peak(self) -> None:
        """Start a new peak window (CUDA only; a CPU's peak is the resident set at the step's end)."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> MemoryReading:
        """Current reading."""
        if self._device.type == "cuda":
            stats = torch.cuda.memory_allocated, torch.cuda.memory_reserved, torch.cuda.max_memory_allocated
            return MemoryReading(*(stat(self._device) for stat in stats))
        rss = self._process.memory_info().rss
        return MemoryReading(rss, rss, rss)
