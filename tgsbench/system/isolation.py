"""Who else uses this machine: foreign processes on its GPUs, foreign load on its CPUs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
from msgspec import Struct

from tgsbench.schema.events import Warn
from tgsbench.system.cores import num_cores
from tgsbench.system.gpus import nvml_or_none

FOREIGN_CORES = 0.5
FOREIGN_SHARE = 0.1
"""Foreign load counts from half a core on, and from a tenth of the cores: less is any machine's daemons."""
_PERIOD_S = 5.0
_START_S = 0.5
_NUM_NAMED = 3

Pids = Callable[[], set[int]]


class Load(Struct, frozen=True):
    """CPU time that others used between two looks."""

    cores: float
    """Mean number of cores they kept busy."""
    seconds: float
    named: list[str]
    """The busiest of them: name, process number, cores."""


class Used(Struct, frozen=True):
    """CPU seconds of one process since its start."""

    own_s: float
    with_ended_s: float
    """With those of its children that have ended."""
    name: str


class CpuWatch:
    """Tells the CPU time of a family of processes from everybody else's."""

    def __init__(self, family: Pids) -> None:
        self._family = family
        self._at_s = time.monotonic()
        self._busy_s = _machine_busy_s()
        self._used_s = _used_by_process()

    def look(self) -> Load:
        """Foreign load since the last look."""
        at_s, busy_s, used_s = time.monotonic(), _machine_busy_s(), _used_by_process()
        before, family = self._used_s, self._family()
        own_s, foreign_s = 0.0, {}
        for pid, used in used_s.items():
            earlier = before.get(pid, Used(0.0, 0.0, ""))
            if pid in family:
                own_s += used.with_ended_s - earlier.with_ended_s
            else:
                foreign_s[pid] = used.own_s - earlier.own_s
        seconds = max(1e-3, at_s - self._at_s)
        busiest = sorted(
            (pid for pid in foreign_s if foreign_s[pid] > 0.05 * seconds), key=lambda pid: -foreign_s[pid]
        )
        named = [f"{used_s[p].name} (pid {p}) {foreign_s[p] / seconds:.1f}" for p in busiest[:_NUM_NAMED]]
        cores = max(0.0, busy_s - self._busy_s - own_s) / seconds
        self._at_s, self._busy_s, self._used_s = at_s, busy_s, used_s
        return Load(cores, seconds, named)


def look_around(seconds: float = _START_S) -> Load:
    """What others use now, besides this process and those that started it."""
    own = psutil.Process()
    family = {own.pid, *(parent.pid for parent in own.parents())}
    watch = CpuWatch(lambda: family)
    time.sleep(seconds)
    return watch.look()


class DisturbanceWatch:
    """Looks as the ranks start and every few seconds while they measure; speaks in `warn` events.

    `family` gives the process numbers that belong to the run, at the moment of asking.
    """

    def __init__(self, family: Pids, on_gpu: bool) -> None:
        self._family = family
        self._on_gpu = on_gpu
        self._num_cores = num_cores()
        self._cpu = CpuWatch(family)
        self._gpu_before: set[int] = set()
        self._started = False
        self._next_s = 0.0
        self._cores_s = self._measured_s = 0.0
        self._said: set[str] = set()

    def before(self) -> list[Warn]:
        """Call it just before anything of ours runs: who is on the GPUs; the look at the cores begins."""
        self._next_s = time.monotonic() + _START_S
        if not self._on_gpu:
            return []
        self._gpu_before = set(gpu_processes())
        return self._gpu_warning(self._gpu_before - self._family(), "before the ranks started")

    def during(self, measuring: bool) -> list[Warn]:
        """Call it as often as you like; it looks half a second after the start, then every five seconds."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return []
        starting, self._next_s = not self._started, now_s + _PERIOD_S
        self._started = True
        load = self._cpu.look()
        if starting:
            return self._cpu_warning(load, "start", "while the ranks started")
        if not measuring:
            return []
        self._cores_s += load.cores * load.seconds
        self._measured_s += load.seconds
        found = self._cpu_warning(load, "during", "while it measured")
        return found + (
            self._gpu_warning(self._foreign_on_gpu(), "while it measured") if self._on_gpu else []
        )

    def after(self) -> list[Warn]:
        """The mean over the measurement, where others disturbed it."""
        if "during" not in self._said or not self._measured_s:
            return []
        cores = self._cores_s / self._measured_s
        msg = f"other processes used {cores:.1f} of {self._num_cores} cores on average while it measured"
        return [Warn(code="disturbed_cpu", msg=msg, hint=_HINT)]

    def _cpu_warning(self, load: Load, key: str, when: str) -> list[Warn]:
        if key in self._said or load.cores < max(FOREIGN_CORES, FOREIGN_SHARE * self._num_cores):
            return []
        self._said.add(key)
        who = ", ".join(load.named) or "none that can be seen from here"
        msg = f"other processes used {load.cores:.1f} of {self._num_cores} cores {when}: {who}"
        return [Warn(code="disturbed_cpu", msg=msg, hint=_HINT)]

    def _gpu_warning(self, pids: set[int], when: str) -> list[Warn]:
        fresh = sorted(pid for pid in pids if f"gpu{pid}" not in self._said)
        self._said.update(f"gpu{pid}" for pid in fresh)
        if not fresh:
            return []
        who = ", ".join(f"{_name(pid)} (pid {pid})" for pid in fresh[:_NUM_NAMED])
        more = f" and {len(fresh) - _NUM_NAMED} more" if len(fresh) > _NUM_NAMED else ""
        return [
            Warn(code="disturbed_gpu", msg=f"other processes are on the GPUs {when}: {who}{more}", hint=_HINT)
        ]

    def _foreign_on_gpu(self) -> set[int]:
        there, family = set(gpu_processes()), self._family()
        if there & family:
            return there - family
        # NVML tells the host's numbers, a container has its own: ours cannot be told apart there, so only
        # those that were here before us are foreign for sure.
        return there & self._gpu_before


_HINT = "the figure holds for a shared machine only: measure again when it is idle"


def gpu_processes() -> Iterable[int]:
    """Process numbers that NVML sees computing on this machine's GPUs that are visible to us."""
    nvml = nvml_or_none()
    if nvml is None:
        return
    with contextlib.suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                if _is_visible(nvml, handle, index):
                    yield from (process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))


def _is_visible(nvml: Any, handle: Any, index: int) -> bool:
    """Does CUDA_VISIBLE_DEVICES, by number or UUID, leave this GPU to the run?"""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return True
    uuid = nvml.nvmlDeviceGetUUID(handle)
    uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
    return any(word == str(index) or (word and uuid.startswith(word)) for word in visible.split(","))


def _machine_busy_s() -> float:
    """CPU seconds since start that were not idle; time that a hypervisor gave to others counts as theirs."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in names))


def _used_by_process() -> dict[int, Used]:
    used: dict[int, Used] = {}
    for process in psutil.process_iter(["cpu_times", "name"]):
        times = process.info["cpu_times"]
        if times is not None:
            own_s = times.user + times.system
            ended_s = times.children_user + times.children_system
            used[process.pid] = Used(own_s, own_s + ended_s, process.info["name"] or "?")
    return used


def _name(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return "?"
