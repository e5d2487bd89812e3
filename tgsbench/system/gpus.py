"""What NVML says about this machine's GPUs; without it, what the kernel driver lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from tgsbench.schema.events import Gpu as GpuEvent

_THROTTLES = {
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x4: "power cap",
}
"""nvmlClocksThrottleReason bits that cost speed."""


class GpuInfo(Struct, frozen=True):
    """One GPU of this machine."""

    index: int
    name: str
    memory_gib: float = 0.0


def list_gpus() -> list[GpuInfo]:
    """GPUs of this machine; names are empty when only device files can be counted."""
    nvml = nvml_or_none()
    if nvml is None:
        nodes = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
        return [GpuInfo(index, "") for index in range(len(nodes))]
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    return [
        GpuInfo(i, _text(nvml.nvmlDeviceGetName(h)), nvml.nvmlDeviceGetMemoryInfo(h).total / 2**30)
        for i, h in enumerate(handles)
    ]


class GpuSampler:
    """Reads one GPU's utilisation, power, temperature and clocks."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    @classmethod
    def for_uuid(cls, uuid: str) -> GpuSampler | None:
        """A sampler for the GPU with this UUID, or None where NVML does not answer."""
        nvml = nvml_or_none()
        if nvml is None:
            return None
        try:
            return cls(nvml, uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        except nvml.NVMLError:
            return None

    def read(self) -> GpuEvent | None:
        """One sample, or None when NVML fails this time."""
        nvml, handle = self._nvml, self._handle
        try:
            reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            return GpuEvent(
                util=float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                temp_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                sm_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
                throttled=", ".join(text for bit, text in _THROTTLES.items() if reasons & bit),
            )
        except nvml.NVMLError:
            return None


def nvml_or_none() -> Any:
    """The initialised pynvml module, or None."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
