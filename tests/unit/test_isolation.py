"""Others on the machine are told from the run's own processes: by CPU time, and by NVML's list."""

from __future__ import annotations

import subprocess
import sys
import types

import psutil
import pytest

from tgsbench import presets
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import build_result
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Gpu, Hello, Warn
from tgsbench.schema.run import Manifest, Outcome
from tgsbench.system import isolation
from tgsbench.system.isolation import CpuWatch, DisturbanceWatch, Load

BUSY = """
import sys, time
end = time.process_time() + 1.5
print(flush=True)
while time.process_time() < end: pass
print(flush=True)
sys.stdin.read()
"""


def busy() -> subprocess.Popen[bytes]:
    """A process that burns 1.5 s of CPU, says so, and stays until its stdin is closed."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_cpu_time_of_a_stranger_is_foreign_and_that_of_the_family_is_not():
    stranger = busy()
    watch = CpuWatch(lambda: {psutil.Process().pid})
    # Looked at while it lives: once it has ended, what it used is booked to this process, its parent.
    stranger.stdout.readline()
    load = watch.look()
    stranger.communicate()
    assert load.cores * load.seconds > 1.0
    own = busy()
    watch = CpuWatch(lambda: {psutil.Process().pid, own.pid, *(p.pid for p in psutil.Process().parents())})
    own.communicate()
    mine = watch.look()
    # Its end is booked to this process, its parent: 1.5 s of CPU are missing from the foreign share.
    assert not any(f"(pid {own.pid})" in name for name in mine.named)


class FixedWatch:
    """Stands in for CpuWatch: looks that were made up."""

    def __init__(self, *cores: float) -> None:
        self.loads = [Load(c, 5.0, ["python (pid 7) 1.0"]) for c in cores]

    def look(self) -> Load:
        return self.loads.pop(0)


def isolated(monkeypatch, *cores: float, num_cores: int = 16, on_gpu: bool = False) -> DisturbanceWatch:
    monkeypatch.setattr(isolation, "_START_S", 0.0)
    monkeypatch.setattr(isolation, "_PERIOD_S", 0.0)
    found = DisturbanceWatch(lambda: {1, 2}, on_gpu)
    found._cpu, found._num_cores = FixedWatch(*cores), num_cores
    return found


def started(monkeypatch, *cores: float, num_cores: int = 16) -> DisturbanceWatch:
    """A watch whose look at the start is over and found nobody."""
    found = isolated(monkeypatch, 0.0, *cores, num_cores=num_cores)
    assert found.before() == found.during(False) == []
    return found


def test_load_as_the_ranks_start_is_told_with_who_it_is(monkeypatch):
    watch = isolated(monkeypatch, 3.2)
    assert watch.before() == []  # the ranks need not wait for a look at the cores
    (warning,) = watch.during(False)
    assert warning.code == "disturbed_cpu"
    assert warning.msg == ("other processes used 3.2 of 16 cores while the ranks started: python (pid 7) 1.0")
    quiet = isolated(monkeypatch, 1.5)
    assert quiet.before() == quiet.during(False) == []


def test_the_look_at_the_start_is_not_over_at_once(monkeypatch):
    watch = isolated(monkeypatch)
    monkeypatch.setattr(isolation, "_START_S", 60.0)
    assert watch.before() == watch.during(True) == []  # no load was made up, so that a look would fail


def test_load_counts_only_while_it_measures_is_told_once_and_summed_up(monkeypatch):
    watch = started(monkeypatch, 9.0, 4.0, 2.0, 0.0)
    assert watch.during(False) == []
    (warning,) = watch.during(True)
    assert "4.0 of 16 cores while it measured" in warning.msg
    assert watch.during(True) == watch.during(True) == []
    (summary,) = watch.after()
    assert "2.0 of 16 cores on average" in summary.msg


def test_a_quiet_measurement_says_nothing(monkeypatch):
    watch = started(monkeypatch, 0.1, 0.3, num_cores=2)
    assert watch.during(True) == watch.during(True) == watch.after() == []


def fake_nvml(monkeypatch, pids: list[int], fails: bool = False) -> None:
    """A pynvml with one GPU and these processes on it."""

    class NVMLError(Exception):
        pass

    def running(_handle):
        if fails:
            raise NVMLError
        return [types.SimpleNamespace(pid=pid) for pid in pids]

    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: b"GPU-abc",
        nvmlDeviceGetComputeRunningProcesses=running,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)


@pytest.mark.parametrize(
    ("before", "during", "told"),
    [
        ([], [1, 2], []),  # only our own
        ([], [1, 99], ["99"]),  # a stranger came
        ([99], [1, 99], ["99"]),  # a stranger was there: told once
        ([99], [501, 502, 99], ["99"]),  # numbers of another namespace: only who was there before is foreign
        ([], [501, 502], []),
    ],
)
def test_strangers_on_the_gpus_are_named_once(monkeypatch, before, during, told):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    watch = isolated(monkeypatch, *([0.0] * 4), on_gpu=True)
    fake_nvml(monkeypatch, before)
    found = watch.before()
    fake_nvml(monkeypatch, during)
    found += watch.during(False) + watch.during(True) + watch.during(True)
    assert [w.code for w in found] == ["disturbed_gpu"] * len(told)
    for pid, warning in zip(told, found, strict=True):
        assert f"(pid {pid})" in warning.msg


@pytest.mark.parametrize(("visible", "seen"), [("", True), ("0", True), ("GPU-a", True), ("1,2", False)])
def test_processes_on_gpus_that_the_run_cannot_see_do_not_count(monkeypatch, visible, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake_nvml(monkeypatch, [99])
    assert bool(list(isolation.gpu_processes())) == seen


def test_an_nvml_that_fails_is_no_disturbance(monkeypatch):
    fake_nvml(monkeypatch, [99], fails=True)
    assert list(isolation.gpu_processes()) == []


def test_a_result_of_a_disturbed_machine_says_so():
    preset = presets.resolve("tiny_cpu").preset
    stream = [
        Hello(rank=0, world=2, host="a", device="NVIDIA H100"),
        Warn(rank=-1, code="disturbed_cpu", msg="other processes used 3.2 of 16 cores"),
        Warn(rank=0, code="short_packs", msg="packs are short"),
        *(Gpu(rank=0, throttled=reason) for reason in ("", "hardware thermal", "power cap", "power cap")),
    ]
    manifest = Manifest(
        run_id="r", preset="tiny_cpu", engine="fsdp2", created_unix=0, world_size=2, device="cuda"
    )
    result = build_result(manifest, preset, fold_events(stream, 2), Outcome(), None, Environment())
    assert result.disturbances == [
        "other processes used 3.2 of 16 cores",
        "GPU clocks were held down in 25% of samples: hardware thermal",
    ]
    assert "GPU clocks were held down in 50% of samples: power cap" in result.warnings
    assert "packs are short" in result.warnings
