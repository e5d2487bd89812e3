"""The environment that ranks on a virtual GPU run in: where it is, and whether it can."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.system.user_cache import user_cache
from tgsbench.systems import environments
from tgsbench.systems.environments import installed_versions, site_of
from tgsbench.systems.spec import release_of

PYTHON_VARIABLE = "TGSBENCH_VIRTUAL_GPU_PYTHON"
"""Names another interpreter with a CUDA build of torch."""
MAKE = "make virtual-gpu"
"""What makes the environment (about 5 GB, some minutes)."""
OLDEST, NEWEST = (2, 11), (2, 15)
"""Releases of torch that the device was written for."""
_PACKAGES = ("torch", "transformers", "msgspec", "psutil", "numpy")
_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")


class Installation(Struct, frozen=True, kw_only=True):
    """An interpreter and what it has for a virtual GPU."""

    python: str
    torch: str = ""
    cuda_runtime: str = ""
    """Version of the wheel that brings CUDA's headers; empty: no CUDA build of torch."""
    site_packages: str = ""
    missing: list[str] = []
    """What keeps it from running, a sentence each; empty: it can."""


def cache_dir() -> Path:
    """Folder of the environment and of built devices under XDG_CACHE_HOME."""
    return user_cache() / "virtual-gpu"


def chosen_python() -> str:
    """The named interpreter, else the one that `make virtual-gpu` made, else this one."""
    made = cache_dir() / "env" / "bin" / "python"
    return os.environ.get(PYTHON_VARIABLE) or (str(made) if made.exists() else sys.executable)


def look() -> Installation:
    """What the chosen interpreter has; every problem at once, in `missing`."""
    return _seen(chosen_python(), _PACKAGES)


def _seen(python: str, packages: tuple[str, ...]) -> Installation:
    try:
        versions = installed_versions(python, (*packages, *_RUNTIMES))
        site_packages = site_of(python, "torch") if versions["torch"] else ""
    except TgsError as error:
        return Installation(python=python, missing=[error.msg])
    found = Installation(
        python=python,
        torch=versions["torch"],
        cuda_runtime=next((versions[name] for name in _RUNTIMES if versions[name]), ""),
        site_packages=site_packages,
    )
    return _judged(found, {name: versions[name] for name in packages})


def require() -> Installation:
    """The installation, or TgsError (exit code 6) that says what it lacks and how to get it."""
    found = look()
    if found.missing:
        raise TgsError(
            f"no virtual GPU here: {'; '.join(found.missing)}",
            hint=f"`{MAKE}` in tgsbench's source tree makes an environment of its own (about 5 GB); "
            f"{PYTHON_VARIABLE}=PATH names another interpreter that has a CUDA build of torch",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return found


def require_of(system: str) -> Installation:
    """The environment of a system outside our ranks, as a virtual GPU needs it.

    Raises TgsError (exit code 6) that says what it lacks and how to get it.
    """
    found = _seen(environments.require(system, on_virtual_gpu=True).python, ("torch",))
    if found.missing:
        raise TgsError(
            f"no virtual GPU for engine {system}: {'; '.join(found.missing)}",
            hint=f"{environments.setup_command(system)} --virtual-gpu makes one over the torch of `{MAKE}`, "
            "or name a Python that has a CUDA build: --python PATH",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return found


def _judged(found: Installation, versions: dict[str, str]) -> Installation:
    problems = [f"package {name} in {found.python}" for name in versions if not versions[name]]
    if found.torch and not OLDEST <= release_of(found.torch)[:2] <= NEWEST:
        oldest, newest = (".".join(map(str, release)) for release in (OLDEST, NEWEST))
        problems.append(f"torch {oldest} to {newest} in {found.python}, there is {found.torch}")
    if found.torch and not found.cuda_runtime:
        problems.append(f"a CUDA build of torch in {found.python}, {found.torch} is a CPU build")
    problems += [f"{tool} (of a C++ compiler's package)" for tool in ("g++", "nm") if not shutil.which(tool)]
    return Installation(
        python=found.python,
        torch=found.torch,
        cuda_runtime=found.cuda_runtime,
        site_packages=found.site_packages,
        missing=[f"it needs {problem}" for problem in problems],
    )
