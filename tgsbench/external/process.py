"""Commands in another system's environment: their variables, their output, and how they are stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tgsbench.errors import ExitCode, TgsError
from tgsbench.external import exit_report
from tgsbench.schema.preset import Preset
from tgsbench.system.child import safe_environment
from tgsbench.system.lifetime import die_with_parent_argv
from tgsbench.system.process import ProcessGroup

PEER = Path(__file__).parent / "peer"
"""Scripts that run over there."""
_MAX_TAIL = 8 << 20
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TGSBENCH_RUNS")


VIRTUAL_GPU = "TGSBENCH_VGPU_LOG"
"""Where the virtual device writes: the launcher sets it for a run there (virtual_gpu/device/spec.cpp)."""


def is_on_virtual_gpu(env: Mapping[str, str] = os.environ) -> bool:
    """Are this process's ranks started on a virtual GPU?"""
    return VIRTUAL_GPU in env


class Stop(Protocol):
    """Something that knows whether this process was asked to end."""

    asked: bool


class ExternalProcess:
    """Another system's interpreter, for what comes before its training."""

    def __init__(
        self,
        python: str,
        env: Mapping[str, str],
        log: Path,
        stop: Stop,
        tick: Callable[[ProcessGroup], None] = lambda child: None,
    ) -> None:
        """`tick` is called while a script runs, to say that it lives."""
        self._python, self._env, self._log, self._stop, self._tick = python, env, log, stop, tick

    def script(self, name: str, *args: str) -> str:
        """Run one of our scripts over there to its end; returns the last line it printed.

        Raises TgsError with what it raised.
        """
        begin = self._log.stat().st_size if self._log.exists() else 0
        child = ProcessGroup(
            die_with_parent_argv([self._python, "-u", str(PEER / name), *args]), self._env, self._log
        )
        try:
            while child.poll() is None and not self._stop.asked:
                self._tick(child)
                time.sleep(0.1)
        finally:
            code = child.poll()
            if code is None:
                code = child.stop()
        text = tail(self._log, begin)
        if code:
            error = exit_report.describe(name, code, text)
            reason = error.msg if error else f"{name} was killed"
            raise TgsError(reason, hint=f"its words are in {self._log}", exit_code=ExitCode.CRASHED)
        return (text.strip().splitlines() or [""])[-1]


def peer_environment(preset: Preset, extra: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """Variables of the other system's processes: ours that could mislead it are left out, no hub is asked."""
    env = safe_environment({name: value for name, value in base.items() if name not in _OURS})
    env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}
    if preset.hardware.device == "cpu":
        env["DS_ACCELERATOR"] = "cpu"
    return env | dict(extra)


def tail(log: Path, begin: int = 0) -> str:
    """The end of a log, at most 8 MiB and not before byte `begin`."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, os.fstat(file.fileno()).st_size - _MAX_TAIL))
            return file.read(_MAX_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
