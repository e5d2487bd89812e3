"""What a trace does not hold, and what was left out of its figures: said beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tgsbench import units
from tgsbench.schema.hotspots import HotOp
from tgsbench.traces.device_time import DeviceTime
from tgsbench.traces.host_time import HostTime
from tgsbench.traces.step_window import StepWindow, num_crossing
from tgsbench.traces.tables import Table

_ON_CPUS: Final = ("", "gloo", "mpi", "ucc", "fake")
_FEW: Final = 0.001
"""Less than a thousandth of the launches, or of the step, is not worth a line."""
_NUM_NAMES: Final = 3


def is_gpu_job(table: Table) -> bool:
    """Did the job use a GPU, whether or not the trace shows any of its work?

    Said by calls of a device's runtime, by a backend of devices, and by the device itself where no backend
    of CPUs stands against it.
    """
    distributed = table.head.distributed
    backends = (distributed.backend if distributed is not None else "").lower().replace(",", " ").split()
    on_gpus = any(backend.rpartition(":")[2] not in _ON_CPUS for backend in backends)
    only_cpus = bool(backends) and not on_gpus
    has_calls = any(name.startswith("nccl:") for name in table.host_names)
    return bool(table.launches.num_rows or on_gpus or has_calls or (table.head.device_name and not only_cpus))


def complaints(table: Table, window: StepWindow, found: DeviceTime | HostTime, top: list[HotOp]) -> list[str]:
    """Caveats of one rank's figures."""
    said = [*_left_out(found), *_lost(table, window, found), *_devices(table), *_crossing(table, window)]
    return [*said, *_unknown(found, top)]


def _left_out(found: DeviceTime | HostTime) -> Iterator[str]:
    if isinstance(found, DeviceTime) and found.placed.num_before:
        before = found.placed
        yield (
            f"{before.num_before:,} kernels and copies ({units.duration(before.before_ns / 1e9)}) were "
            "launched before the steps: left out, and the window begins when they are done"
        )


def _lost(table: Table, window: StepWindow, found: DeviceTime | HostTime) -> Iterator[str]:
    """Launches whose kernels are not in the trace."""
    launched = _num_launches(table, window)
    if isinstance(found, HostTime):
        if is_gpu_job(table):
            calls = f"{launched:,} launches, but no kernel" if launched else "a GPU's job, but no kernel"
            yield (
                f"{calls} was recorded: the figures are of the host alone, and no rate can be said; "
                "profile with ProfilerActivity.CUDA, and let no other profiler hold the device"
            )
        return
    lost = launched - found.num_matched
    if lost > _FEW * launched:
        yield (
            f"the kernels of {lost:,} of {launched:,} launches ({units.percent(lost / launched)}) are not "
            "in the trace: their time counts as idle; a shorter capture loses none"
        )


def _num_launches(table: Table, window: StepWindow) -> int:
    count = 0
    for rows in table.launches.batches():
        inside = (rows["start"] >= window.start) & (rows["start"] < window.end)
        count += int((rows["starts_kernel"] & inside & (rows["correlation"] != 0)).sum())
    return count


def _devices(table: Table) -> Iterator[str]:
    if len(table.devices) > 1:
        names = ", ".join(map(str, table.devices))
        yield (
            f"activities of {len(table.devices)} devices ({names}) in one trace: parts of the step and "
            "collectives are means over them"
        )
    for category, (count, dur_us) in sorted(table.unread.items()):
        yield (
            f"{count:,} events of the category {category[:40]!r} ({units.duration(dur_us / 1e6)}) say that "
            "they ran on a device, but are not known: left out"
        )


def _crossing(table: Table, window: StepWindow) -> Iterator[str]:
    count = num_crossing(table, window)
    if count:
        yield f"{count:,} operators cross a step's border: each step has the part that lies in it"


def _unknown(found: DeviceTime | HostTime, top: list[HotOp]) -> Iterator[str]:
    parts = found.parts
    share = parts.parts_ns.get("other", 0) / max(1, parts.window_ns)
    if share > _FEW:
        names = [op.name[:60] for op in top if op.kind == "other"][:_NUM_NAMES]
        named = f": {'; '.join(names)}" if names else ""
        yield f"{units.percent(share)} of the step is unknown: kernels or operators not known{named}"


def without_rates(top: list[HotOp]) -> None:
    """Take the rates off operators whose kernels were not recorded: launching a product takes no FLOPs."""
    for op in top:
        op.tflops = op.peak_tflops = None
