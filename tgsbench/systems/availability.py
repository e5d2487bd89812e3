"""Whether each engine can run here, what is missing, and what installs it.

Looks packages up without importing them, and other systems in environments of their own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from tgsbench.install import pip_install
from tgsbench.system.gpus import list_gpus
from tgsbench.systems import environments, registry
from tgsbench.systems.plugins import BrokenPlugin
from tgsbench.systems.spec import EngineSpec, External, Kind, Package


class EngineState(Struct, frozen=True, kw_only=True):
    """One engine on this machine."""

    name: str
    kind: Kind | Literal["broken"]
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


def missing_packages(name: str) -> list[Package]:
    """Packages that a native engine lacks here; none for an engine with its own environment.

    Raises TgsError for an unknown engine.
    """
    return [p for p in registry.find_engine(name).packages if importlib.util.find_spec(p.module) is None]


def install_command(missing: Iterable[Package]) -> str:
    """What installs missing packages: tgsbench's extras."""
    return pip_install(*(package.extra for package in missing))


def states() -> list[EngineState]:
    """Every engine as it stands on this machine, plug-ins that give none last."""
    known = [state(name) for name in registry.names()]
    return known + [_broken(plugin) for plugin in registry.broken_plugins()]


def state(name: str) -> EngineState:
    """One engine as it stands on this machine; raises TgsError for an unknown one."""
    spec = registry.find_engine(name)
    return _native(spec) if spec.kind == "native" else _external(spec)


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
        limits=_limits(spec, versions),
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
        limits=[*filter(None, [environments.untested(environment)]), *_limits(spec, environment.versions)],
    )


def _broken(plugin: BrokenPlugin) -> EngineState:
    return EngineState(
        name=plugin.name,
        kind="broken",
        what="a plug-in that gives no engine",
        available=False,
        missing=[plugin.reason],
    )


def _limits(spec: EngineSpec, versions: dict[str, str]) -> list[str]:
    """What the installed release cannot do, and what this machine keeps it from."""
    name = spec.launch.recipe.needs[0] if isinstance(spec.launch, External) else spec.name
    version = versions.get(name, "")
    listed = [limit.listed for limit in spec.limits if limit.listed and limit.holds(version)]
    return listed + (spec.machine_limits() if spec.machine_limits else [])


def _devices() -> list[str]:
    return ["cpu", "cuda"] if list_gpus() else ["cpu"]


def _version(package: Package) -> str:
    try:
        return importlib.metadata.version(package.distribution or package.module)
    except importlib.metadata.PackageNotFoundError:
        return ""
