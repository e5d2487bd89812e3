"""Runs of a tiny model in which something goes wrong, and what is left of them afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.contract.cli import ROOT, SMALL, environment, tgsbench, tgsbench_json

INJECT = ROOT / "tests" / "dist" / "inject"


def faulty_environment(home: Path, **fault: Any) -> dict[str, str]:
    """The environment of a run with one injected fault."""
    env = environment(home)
    env["PYTHONPATH"] = os.pathsep.join([str(INJECT), str(ROOT)])
    env["TGSBENCH_TEST_FAULT"] = json.dumps(fault)
    return env


class Running:
    """A `tgsbench run` in the background."""

    def __init__(
        self, home: Path, *args: str, env: dict[str, str] | None = None, steps: int = 100_000
    ) -> None:
        self.home = home
        argv = [sys.executable, "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--headless"]
        self.process = subprocess.Popen(
            [*argv, "--steps", str(steps), *SMALL, *args],
            cwd=home,
            env=env or environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def folder(self) -> Path:
        """The run's folder, once it is there."""
        (folder,) = (path for path in (self.home / "runs").iterdir() if path.is_dir())
        return folder

    def events(self, rank: int = 0) -> list[dict[str, Any]]:
        """Whole lines of a rank's event file."""
        try:
            lines = (self.folder / "events" / f"rank{rank:05d}.jsonl").read_bytes().split(b"\n")[:-1]
        except (OSError, ValueError):
            return []
        return [json.loads(line) for line in lines if line]

    def pids(self) -> dict[int, int]:
        """Process numbers by rank, from the ranks' hellos."""
        hellos = [event for rank in (0, 1) for event in self.events(rank)[:1]]
        return {event["rank"]: event["pid"] for event in hellos}

    def family(self) -> list[psutil.Process]:
        """Agent and ranks."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def until_measuring(self, num_steps: int = 2) -> Running:
        """Wait until rank 0 has written measured steps."""
        wait_for(lambda: self._measured() >= num_steps, lambda: self.process.poll() is not None)
        return self

    def finish(self, timeout_s: float = 120) -> str:
        """Wait for its end; returns what it printed."""
        return self.process.communicate(timeout=timeout_s)[0]

    def _measured(self) -> int:
        return sum(e["type"] == "step" and e.get("phase", "measure") == "measure" for e in self.events())


def wait_for(condition: Callable[[], Any], broken: Callable[[], bool] = bool, timeout_s: float = 180) -> None:
    """Poll until the condition holds; fails when it never does, or cannot any more."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert not broken(), "the run ended too early"
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.1)


def run_with(home: Path, *args: str, **fault: Any) -> subprocess.CompletedProcess[str]:
    """A whole run with a fault in it."""
    argv = [sys.executable, "-m", "tgsbench", "run", "--preset", "tiny_cpu", "--headless", "--steps", "6"]
    return subprocess.run(
        [*argv, *SMALL, *args],
        cwd=home,
        env=faulty_environment(home, **fault),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def listed(home: Path) -> dict[str, Any]:
    """The one row of `tgsbench runs`."""
    (row,) = tgsbench_json(home, "runs", "--json")
    return row


def shown(home: Path) -> tuple[dict[str, Any], str]:
    """`tgsbench show latest` as JSON and as text."""
    return tgsbench_json(home, "show", "latest", "--json"), tgsbench(home, "show", "latest").stdout


def gone(processes: list[psutil.Process], timeout_s: float) -> bool:
    """Did all of them end within the time?"""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not alive
