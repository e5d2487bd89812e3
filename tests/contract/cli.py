"""Run the command line as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "--set", "model.num_layers=1", "--set", "model.hidden_size=64", "--set", "model.head_dim=8",
    "--set", "model.intermediate_size=96", "--set", "model.vocab_size=512",
    "--set", "workload.seq_len=256",
)  # fmt: skip
"""Arguments that shrink tiny_cpu until a step takes milliseconds."""


def environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the user's is read or written."""
    return dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        XDG_CONFIG_HOME=str(home / "config"),
        TGSBENCH_RUNS=str(home / "runs"),
        NO_COLOR="1",
        COLUMNS="100",
    )


def tgsbench(home: Path, *args: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `tgsbench ARGS` in `home` and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "tgsbench", *args],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def tgsbench_json(home: Path, *args: str, **options: Any) -> Any:
    """Run a command that prints one JSON document and read it."""
    done = tgsbench(home, *args, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
