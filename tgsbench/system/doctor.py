"""Is this machine fit to measure on: one line a check, with its remedy; torch is asked from outside."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct

from tgsbench.install import FLASH_ATTN, pip_install
from tgsbench.schema.environment import Environment
from tgsbench.schema.torch_answers import Answer, HubAnswer, TalkAnswer, TorchFacts
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.environment import describe_environment
from tgsbench.system.gpus import driver, links, list_gpus
from tgsbench.system.isolation import FOREIGN_CORES, look_around
from tgsbench.system.tracebacks import root_cause

_SEE_TORCH = "see torch"
"""The remedy of a check that fails for want of it."""
Level = Literal["ok", "warning", "failure"]
MARKS = {"ok": "✓ ok", "warning": "! warn", "failure": "✗ fail"}
A = TypeVar("A", bound=Answer)
_NONE: Mapping[str, str] = {}


class Probe(Protocol):
    """Who answers the questions that only torch can."""

    def __call__(self, question: str, kind: type[A]) -> A:
        """The answer to one question, of its kind."""


_GIB = 2**30
_PROBE_S = 120
_LEAST_PYTHON = (3, 11)
_SHM_GIB = 1.0
"""NCCL and data loaders share memory through /dev/shm; Docker's default of 64 MiB is too little."""
_DISK_GIB = 2.0
_LEAST_FILES = 4096
"""A rank opens a few hundred files and sockets; 1,024 event files are followed one at a time."""


class DoctorCheck(Struct, frozen=True):
    """One line: what was looked at, what was found, what to do about it."""

    what: str
    level: Level
    found: str
    remedy: str = ""

    @property
    def marked(self) -> str:
        """The level with a mark, so that it reads without colour."""
        return MARKS[self.level]


def iter_checks(
    runs_root: Path = Path("runs"),
    probe: Probe | None = None,
    engine_distributions: Mapping[str, str] = _NONE,
) -> Iterator[tuple[int, list[DoctorCheck]]]:
    """Look at this machine: each group of checks as soon as it is done, with its place in the whole list.

    It takes some seconds in all, for torch is imported and two ranks talk. `engine_distributions` are what
    single engines need beside torch: name -> extra that installs it.
    """
    ask = probe or ask_torch
    # Each import of torch takes seconds: the questions are asked side by side. The load of this machine is
    # looked at before they cause some.
    quiet = _quiet()
    with ThreadPoolExecutor(max_workers=3) as pool:
        asked_facts = pool.submit(ask, "facts", TorchFacts)
        asked_talk = pool.submit(ask, "talk", TalkAnswer)
        asked_hub = pool.submit(ask, "hub", HubAnswer)
        yield 0, [_python()]
        environment = describe_environment(engine_distributions)
        installed = environment.packages or {}
        packages = _PACKAGES | dict(engine_distributions)
        yield 2, [_package(name, installed, extra) for name, extra in packages.items()]
        yield 5, [_cpu(environment), quiet, disk(runs_root), shared_memory(Path("/dev/shm")), *_limits()]
        facts = asked_facts.result()
        yield 1, [_torch(facts, installed)]
        yield 3, [*_gpus(facts), _kernels(facts)]
        # Last, for they wait for each other or for a network.
        yield 4, [_talk(asked_talk.result(), facts)]
        yield 6, [_hub(asked_hub.result(), installed)]


def worst(checks: list[DoctorCheck]) -> Level:
    """The gravest level among the checks."""
    levels = {check.level for check in checks}
    return "failure" if "failure" in levels else "warning" if "warning" in levels else "ok"


def ask_torch(question: str, kind: type[A]) -> A:
    """Ask tgsbench.training.torch_info in a process of its own; `problem` says why it gives no answer."""
    try:
        done = subprocess.run(
            module_argv("tgsbench.training.torch_info", question),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return kind(problem=f"no answer within {_PROBE_S} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return kind(problem=root_cause(done.stderr) or last)
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=kind)
    except (msgspec.DecodeError, IndexError):
        return kind(problem="an answer that cannot be read")


_PACKAGES = {"transformers": "train", "datasets": "train"}


def _python() -> DoctorCheck:
    found = f"{platform.python_version()} on {platform.platform()}"
    if sys.version_info[:2] < _LEAST_PYTHON:
        return DoctorCheck("python", "failure", found, "install Python 3.11 or newer")
    return DoctorCheck("python", "ok", found)


def _torch(facts: TorchFacts, packages: dict[str, str]) -> DoctorCheck:
    if "torch" not in packages:
        return DoctorCheck("torch", "failure", "not installed", pip_install("train"))
    if not facts.torch:
        return DoctorCheck("torch", "failure", f"does not import: {facts.problem}", "reinstall torch")
    build = f"CUDA {facts.cuda_build}" if facts.cuda_build else "CPU build"
    return DoctorCheck("torch", "ok", f"{facts.torch} ({build})")


def _package(name: str, installed: dict[str, str], extra: str) -> DoctorCheck:
    if name in installed:
        return DoctorCheck(name, "ok", installed[name])
    return DoctorCheck(name, "warning", "not installed", pip_install(extra))


def _gpus(facts: TorchFacts) -> list[DoctorCheck]:
    gpus = list_gpus()
    if not gpus:
        return [DoctorCheck("GPUs", "ok", "none: CPU presets, rehearsals and plans run without one")]
    kinds = {gpu.name: sum(g.name == gpu.name for g in gpus) for gpu in gpus}
    named = ", ".join(f"{n} x {name or 'unnamed'}" for name, n in kinds.items())
    level: Level = "ok" if len(kinds) == 1 else "warning"
    remedy = "" if len(kinds) == 1 else "measure on equal GPUs: CUDA_VISIBLE_DEVICES chooses them"
    return [
        DoctorCheck("GPUs", level, named, remedy),
        _driver(),
        _cuda(facts),
        _nccl(facts),
        _topology(facts),
    ]


def _driver() -> DoctorCheck:
    version, cuda = driver()
    if not version:
        remedy = f"{pip_install('gpu')} for nvidia-ml-py; nvidia-smi shows whether the driver runs"
        return DoctorCheck(
            "driver", "warning", "NVML does not answer: no GPU samples, no foreign processes", remedy
        )
    return DoctorCheck("driver", "ok", f"{version}, up to CUDA {cuda}")


def _cuda(facts: TorchFacts) -> DoctorCheck:
    if facts.cuda_available:
        return DoctorCheck("CUDA", "ok", f"{facts.cuda_build}, {len(facts.devices)} devices visible")
    problem = facts.cuda_problem or facts.problem or "not available"
    remedy = "install a CUDA build of torch that the driver supports" if facts.torch else _SEE_TORCH
    return DoctorCheck("CUDA", "failure", problem, remedy)


def _nccl(facts: TorchFacts) -> DoctorCheck:
    if facts.nccl:
        return DoctorCheck("NCCL", "ok", facts.nccl)
    remedy = "install a CUDA build of torch: it brings NCCL" if facts.torch else _SEE_TORCH
    return DoctorCheck("NCCL", "failure", "not available", remedy)


def _topology(facts: TorchFacts) -> DoctorCheck:
    found = links()
    if not found:
        return DoctorCheck("topology", "warning", "not told", pip_install("gpu"))
    if facts.cuda_available and not facts.peer_access:
        return DoctorCheck(
            "topology",
            "warning",
            f"{found}; not every pair has peer access",
            "all-to-all goes through host memory between those: disable ACS/IOMMU, or choose other GPUs",
        )
    return DoctorCheck("topology", "ok", found)


def _kernels(facts: TorchFacts) -> DoctorCheck:
    kernels = facts.kernels
    if not kernels:
        remedy = "reinstall torch" if facts.torch else _SEE_TORCH
        return DoctorCheck("attention", "failure", "no kernel imports", remedy)
    found = ", ".join(f"{name} {version}".strip() for name, version in kernels.items())
    if facts.cuda_available and not any(name.startswith("flash") for name in kernels):
        return DoctorCheck("attention", "warning", found, FLASH_ATTN)
    return DoctorCheck("attention", "ok", found)


def _talk(talk: TalkAnswer, facts: TorchFacts) -> DoctorCheck:
    if not facts.torch:  # two ranks of nothing: no setting of a network helps
        return DoctorCheck("ranks talk", "failure", f"no: {talk.problem or facts.problem}", _SEE_TORCH)
    if talk.problem or not talk.seconds:
        return DoctorCheck(
            "ranks talk",
            "failure",
            f"no: {talk.problem or 'no answer'}",
            "set GLOO_SOCKET_IFNAME / NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says what NCCL tries",
        )
    # Half of each rank's bytes cross; that is what the other one waits for.
    rate = talk.num_bytes / 2 / talk.seconds / 1e9
    return DoctorCheck(
        "ranks talk", "ok", f"2 ranks over {talk.backend}: {rate:.2f} GB/s each way, all-to-all"
    )


def _cpu(environment: Environment) -> DoctorCheck:
    found = f"{environment.num_cores} cores, {environment.memory_gib} GiB, {environment.cpu}"
    return DoctorCheck("CPU", "ok", found)


def _quiet() -> DoctorCheck:
    load = look_around()
    if load.cores < FOREIGN_CORES:
        return DoctorCheck("idle", "ok", f"other processes use {load.cores:.1f} cores")
    who = f": {', '.join(load.named)}" if load.named else ""
    found = f"other processes use {load.cores:.1f} cores{who}"
    return DoctorCheck(
        "idle", "warning", found, "stop them before you measure; results say that they were disturbed"
    )


def disk(runs_root: Path) -> DoctorCheck:
    """Room and the right to write where runs go."""
    folder = next(p for p in (runs_root.absolute(), *runs_root.absolute().parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        remedy = "choose another folder: --output DIR or TGSBENCH_RUNS=DIR"
        return DoctorCheck("disk", "failure", f"{folder} cannot be written", remedy)
    free_gib = shutil.disk_usage(folder).free / _GIB
    found = f"{free_gib:.1f} GiB free for runs in {folder}"
    if free_gib < _DISK_GIB:
        return DoctorCheck("disk", "warning", found, "profiler traces take about a GiB a run: make room")
    return DoctorCheck("disk", "ok", found)


def shared_memory(folder: Path) -> DoctorCheck:
    """Size of /dev/shm."""
    if not folder.is_dir():
        return DoctorCheck("/dev/shm", "warning", "missing", "mount a tmpfs there")
    size_gib = shutil.disk_usage(folder).total / _GIB
    found = f"{size_gib:.2f} GiB"
    if size_gib < _SHM_GIB:
        return DoctorCheck("/dev/shm", "warning", found, "docker run --shm-size=8g, or --ipc=host")
    return DoctorCheck("/dev/shm", "ok", found)


def _limits() -> list[DoctorCheck]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} (hard limit {_limit(hard)})"
    enough = soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES
    remedy = "" if enough else f"ulimit -n {_LEAST_FILES}"
    checks = [DoctorCheck("open files", "ok" if enough else "warning", found, remedy)]
    if any(Path("/sys/class/infiniband").glob("*")):
        locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        free = locked == resource.RLIM_INFINITY
        remedy = "" if free else "InfiniBand registers memory: ulimit -l unlimited"
        checks.append(DoctorCheck("locked memory", "ok" if free else "warning", _limit(locked), remedy))
    return checks


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _hub(hub: HubAnswer, installed: Mapping[str, str]) -> DoctorCheck:
    if "datasets" not in installed:
        return DoctorCheck("hub", "warning", hub.problem or "not asked", "see datasets")
    if hub.problem:
        remedy = "runs draw random tokens of Alpaca's lengths instead, or read workload.file"
        return DoctorCheck("hub", "warning", hub.problem, remedy)
    return DoctorCheck("hub", "ok", "the Alpaca corpus can be had")
