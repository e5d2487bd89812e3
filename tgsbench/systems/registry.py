"""Which engines there are, whether each can run here, what is missing, and what installs it.

Looks packages up without importing them, and other systems in environments of their own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from tgsbench.errors import TgsError, nearest
from tgsbench.install import pip_install
from tgsbench.system.gpus import list_gpus
from tgsbench.systems import environments

Kind = Literal["native", "external"]


class Package(Struct, frozen=True):
    """A module that an engine imports in our ranks."""

    module: str
    extra: str
    """Extra of tgsbench that installs it."""
    distribution: str = ""
    """Name on the package index where it is not the module's."""


class EngineSpec(Struct, frozen=True, kw_only=True):
    """One engine, before anybody looked at this machine."""

    name: str
    kind: Kind
    what: str
    packages: tuple[Package, ...] = ()


class EngineState(Struct, frozen=True, kw_only=True):
    """One engine on this machine."""

    name: str
    kind: Kind
    what: str
    available: bool
    devices: list[str] = []
    """Devices here that it can train on."""
    python: str = ""
    """Interpreter that runs it."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    install: str = ""
    """Command that adds what is missing; empty when nothing is."""
    limits: list[str] = []
    """What it cannot do."""


_TORCH = Package("torch", "train")
_TRAIN = (_TORCH, Package("transformers", "train"), Package("numpy", "train"))

ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="fsdp2",
            kind="native",
            what="PyTorch FSDP2 with tgsbench's fused Ulysses all-to-all",
            packages=_TRAIN,
        ),
        EngineSpec(
            name="deepspeed",
            kind="native",
            what="DeepSpeed ZeRO with its own Ulysses attention (ALST), or tgsbench's",
            packages=(*_TRAIN, Package("deepspeed", "deepspeed")),
        ),
        EngineSpec(name="llamafactory", kind="external", what="LLaMA-Factory itself, in its own environment"),
        EngineSpec(name="xtuner", kind="external", what="XTuner itself, in its own environment"),
    )
}


def find_engine(name: str) -> EngineSpec:
    """The engine called `name`; TgsError names the nearest one."""
    if name not in ENGINES:
        raise TgsError(f"no engine called {name!r}; {nearest(name, ENGINES)}", hint="tgsbench engines")
    return ENGINES[name]


def missing_packages(name: str) -> list[Package]:
    """Packages that a native engine lacks here; none for an engine with its own environment."""
    return [p for p in find_engine(name).packages if importlib.util.find_spec(p.module) is None]


def install_command(missing: Iterable[Package]) -> str:
    """What installs missing packages: tgsbench's extras."""
    return pip_install(*(package.extra for package in missing))


def states() -> list[EngineState]:
    """Every engine as it stands on this machine."""
    return [state(name) for name in ENGINES]


def state(name: str) -> EngineState:
    """One engine as it stands on this machine."""
    spec = find_engine(name)
    return _STATES[spec.kind](spec)


def _native(spec: EngineSpec) -> EngineState:
    missing = missing_packages(spec.name)
    versions = {p.module: v for p in spec.packages if (v := _version(p))}
    return EngineState(
        name=spec.name,
        kind=spec.kind,
        what=spec.what,
        available=not missing,
        devices=_devices() if not missing else [],
        python=sys.executable,
        versions=versions,
        missing=[f"package {p.module}" for p in missing],
        install=install_command(missing),
        limits=_compiler_limits(spec.name),
    )


def _external(spec: EngineSpec) -> EngineState:
    environment = environments.find_environment(spec.name)
    return EngineState(
        name=spec.name,
        kind=spec.kind,
        what=spec.what,
        available=not environment.missing,
        devices=_devices() if not environment.missing else [],
        python=environment.python,
        versions=environment.versions,
        missing=environment.missing,
        install=environments.setup_command(spec.name) if environment.missing else "",
        limits=list(environments.RECIPES[spec.name].limits),
    )


_STATES: dict[Kind, Callable[[EngineSpec], EngineState]] = {"native": _native, "external": _external}


def _devices() -> list[str]:
    return ["cpu", "cuda"] if list_gpus() else ["cpu"]


def _version(package: Package) -> str:
    try:
        return importlib.metadata.version(package.distribution or package.module)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _compiler_limits(name: str) -> list[str]:
    """DeepSpeed builds an operator when it first runs on a CPU."""
    if name != "deepspeed":
        return []
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((beside, os.environ.get("PATH", "")))
    absent = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=path) is None]
    return [f"on a CPU it builds an operator at first use and needs {', '.join(absent)}"] if absent else []
