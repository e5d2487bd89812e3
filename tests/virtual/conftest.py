"""Tests on a virtual GPU are skipped, with the reason, where its environment is not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tgsbench.system.child import child_environment
from tgsbench.virtual_gpu import build, installation


@pytest.fixture(scope="session")
def installed():
    """The environment with a CUDA build of torch."""
    found = installation.look()
    if found.missing:
        pytest.skip(f"{'; '.join(found.missing)}: {installation.MAKE}")
    return found


@pytest.fixture
def on_device(installed, tmp_path):
    """Runs Python code where torch finds a virtual H100; gives its output and the folder of its log."""

    def run(code: str, **variables: str) -> tuple[str, Path]:
        folder = build.ensure_built(installed)
        env = child_environment() | {
            "LD_PRELOAD": str(build.library_of(folder)), "LD_LIBRARY_PATH": str(folder),
            "TGSBENCH_VGPU_LOG": str(tmp_path), "TGSBENCH_VGPU_COMPUTE": "90", "RANK": "0", **variables,
        }  # fmt: skip
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES"):
            env.pop(name, None)
        done = subprocess.run(
            [installed.python, "-P", "-c", code], env=env, capture_output=True, text=True, timeout=300,
            check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, tmp_path

    return run


@pytest.fixture(autouse=True)
def away_from_hubs(monkeypatch):
    """The corpus of every run is drawn here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
