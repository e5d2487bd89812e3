"""What machine and software a run was made on."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import psutil

from tgsbench.schema.environment import Environment
from tgsbench.system.child import package_root
from tgsbench.system.cores import num_cores
from tgsbench.system.gpus import list_gpus
from tgsbench.version import VERSION

_PACKAGES = ("torch", "transformers", "datasets", "flash-attn", "liger-kernel", "numpy")


def host_name() -> str:
    """Name of this machine, or the name that Slurm gave it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def describe_environment(distributions: Iterable[str] = ()) -> Environment:
    """Hardware and software of this machine, without importing any of it.

    `distributions` are asked for beside those that every measurement depends on.
    """
    return Environment(
        tgsbench=VERSION,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu_model(),
        num_cores=num_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=[gpu.name for gpu in list_gpus()],
        packages=software(distributions),
        load_1min_at_start=round(os.getloadavg()[0], 2),
    )


def software(distributions: Iterable[str] = ()) -> dict[str, str]:
    """Versions of all that a measurement depends on, as far as it is installed."""
    return installed_packages((*_PACKAGES, *distributions))


@lru_cache
def code_digest() -> str:
    """Of this very tgsbench's source: a clone that was edited keeps its version."""
    found = hashlib.sha256()
    for path in sorted(Path(package_root()).glob("tgsbench/**/*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def installed_packages(names: Iterable[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
