"""What a virtual GPU needs of this machine: one line a check, with its remedy."""

from __future__ import annotations

import shutil

from tgsbench.errors import TgsError
from tgsbench.presets.catalog import load_gpus
from tgsbench.system.doctor import DoctorCheck
from tgsbench.virtual_gpu import build
from tgsbench.virtual_gpu.installation import MAKE, PYTHON_VARIABLE, Installation, look

_COMPILER = "install a C++ compiler, such as Debian's package g++ (it brings binutils' nm)"


def virtual_checks() -> list[DoctorCheck]:
    """Compiler, interpreter, torch, the device itself (built where it is not yet, 20 s), GPUs to be."""
    found = look()
    checks = [_tool("g++"), _tool("nm"), _environment(found)]
    if not found.missing:
        checks.append(_device(found))
    return [*checks, _gpus()]


def _tool(name: str) -> DoctorCheck:
    path = shutil.which(name)
    return DoctorCheck(name, "ok" if path else "failure", path or "not found", "" if path else _COMPILER)


def _environment(found: Installation) -> DoctorCheck:
    if found.missing:
        remedy = f"`{MAKE}` in tgsbench's source tree, or {PYTHON_VARIABLE}=PATH of a Python that has it"
        return DoctorCheck("environment", "failure", "; ".join(found.missing), remedy)
    what = f"torch {found.torch}, CUDA runtime {found.cuda_runtime}, {found.python}"
    return DoctorCheck("environment", "ok", what)


def _device(found: Installation) -> DoctorCheck:
    try:
        return DoctorCheck("device", "ok", str(build.ensure_built(found)))
    except TgsError as error:
        return DoctorCheck("device", "failure", error.msg, error.hint)


def _gpus() -> DoctorCheck:
    known = [name for name, gpu in load_gpus().items() if gpu.compute_capability and gpu.multiprocessors]
    return DoctorCheck("GPUs", "ok", ", ".join(sorted(known)))
