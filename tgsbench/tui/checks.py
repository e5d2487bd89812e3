"""The checks that the doctor screen lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgsbench.launch import preflight
from tgsbench.system.environment import describe_environment

MARKS = {"ok": "✓ ok", "warning": "! warn", "failure": "✗ fail"}


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, what to do about it."""

    what: str
    level: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""

    @property
    def marked(self) -> str:
        """The level with a mark, so that it reads without colour."""
        return MARKS[self.level]


def run_checks() -> list[Check]:
    """Look at this machine."""
    environment, machine = describe_environment(), preflight.this_machine()
    packages = environment["packages"]
    names = ", ".join(sorted({gpu.name for gpu in machine.gpus}))
    found = [
        Check("python", "ok", f"{environment['python']} on {environment['platform']}"),
        _package("torch", packages, "train"),
        _package("transformers", packages, "train"),
        _package("deepspeed", packages, "deepspeed"),
        Check("CPU", "ok", f"{environment['num_cores']} cores, {environment['cpu']}"),
        Check("memory", "ok", f"{machine.memory_bytes / 2**30:.1f} GiB free of {environment['memory_gib']}"),
    ]
    if machine.gpus:
        return [*found, Check("GPUs", "ok", f"{len(machine.gpus)}: {names}")]
    return [*found, Check("GPUs", "warning", "none", "CPU presets and rehearsals run without one")]


def _package(name: str, installed: dict[str, str], extra: str) -> Check:
    if name in installed:
        return Check(name, "ok", installed[name])
    return Check(name, "warning", "not installed", f'pip install "tgsbench[{extra}]"')
