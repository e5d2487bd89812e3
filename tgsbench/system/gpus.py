"""What NVML says about this machine's GPUs; without it, what the kernel driver lists."""

from __future__ import annotations

import contextlib
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
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            return [
                GpuInfo(i, _text(nvml.nvmlDeviceGetName(h)), nvml.nvmlDeviceGetMemoryInfo(h).total / 2**30)
                for i, h in enumerate(_handles(nvml))
            ]
    nodes = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    return [GpuInfo(index, "") for index in range(len(nodes))]


def driver() -> tuple[str, str]:
    """Driver version and the newest CUDA it runs; empty where NVML does not answer."""
    nvml = nvml_or_none()
    if nvml is None:
        return "", ""
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return _text(nvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}"
    except nvml.NVMLError:
        return "", ""


def links() -> str:
    """How the GPUs are joined: NVLinks of each, and the longest way over PCIe; empty where it is not told."""
    nvml = nvml_or_none()
    if nvml is None:
        return ""
    try:
        handles = _handles(nvml)
        nvlinks = [_num_nvlinks(nvml, handle) for handle in handles]
        ways = [
            int(nvml.nvmlDeviceGetTopologyCommonAncestor(a, b))
            for i, a in enumerate(handles)
            for b in handles[i + 1 :]
        ]
    except nvml.NVMLError:
        return ""
    few, many = min(nvlinks, default=0), max(nvlinks, default=0)
    joined = (
        f"{few} to {many} NVLinks a GPU" if few != many else f"{many} NVLinks a GPU" if many else "no NVLink"
    )
    return f"{joined}; {_WAYS.get(max(ways), 'unknown way')}" if ways else f"one GPU, {joined}"


_WAYS = {
    0: "on one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one host bridge",
    40: "one NUMA node",
    50: "across NUMA nodes",
}
"""nvmlGpuTopologyLevel_t, nearest first."""


def _num_nvlinks(nvml: Any, handle: Any) -> int:
    active = 0
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
        try:
            active += int(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except nvml.NVMLError:
            break
    return active


def _handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]


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
