"""Which engines there are: those of tgsbench, and those of installed plug-ins once somebody asks for them.

An engine of tgsbench is a file in `systems/engines/`; nothing else lists it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.schema.preset import EngineOptions
from tgsbench.systems.costs import System
from tgsbench.systems.engines import fsdp2
from tgsbench.systems.plugins import BrokenPlugin, load_plugin, plugin_names
from tgsbench.systems.spec import EngineSpec

DEFAULT = fsdp2.ENGINE
"""The engine of a preset that names none."""
_FOLDER = Path(__file__).with_name("engines")
_COMMON = frozenset(EngineOptions.__struct_fields__)


@cache
def built_in() -> Mapping[str, EngineSpec]:
    """The engines of tgsbench by name: the default, then others of our ranks, then other systems."""
    specs = [_read(name) for name in _file_names()]
    specs.sort(key=lambda spec: (spec.kind == "external", spec.name != DEFAULT.name, spec.name))
    return {spec.name: spec for spec in specs}


def engines() -> list[EngineSpec]:
    """Every engine, those of plug-ins last; plug-ins that give none are in `broken_plugins`."""
    return [*built_in().values(), *(spec for spec in _plugged() if isinstance(spec, EngineSpec))]


def broken_plugins() -> list[BrokenPlugin]:
    """Installed plug-ins that give no engine."""
    return [found for found in _plugged() if isinstance(found, BrokenPlugin)]


def names() -> list[str]:
    """Names of every engine."""
    return [spec.name for spec in engines()]


def native_names() -> list[str]:
    """Names of tgsbench's engines that train in our ranks, the default first."""
    return [spec.name for spec in built_in().values() if spec.kind == "native"]


def find_engine(name: str) -> EngineSpec:
    """The engine called `name`.

    Raises TgsError that names the nearest ones, or says why a plug-in of this name gives none.
    """
    spec = _read(name) if name in _file_names() else load_plugin(name)
    if isinstance(spec, EngineSpec):
        return spec
    if spec is not None:
        raise TgsError(spec.reason, hint="mend or uninstall it", exit_code=ExitCode.MISSING_DEPENDENCY)
    raise TgsError(f"no engine called {name!r}; {nearest(name, names())}", hint="tgsbench engines")


def engine_of(options: EngineOptions) -> EngineSpec:
    """The engine that a preset's options name, as they ask for it; raises TgsError as `find_engine` does."""
    return find_engine(options.name).with_options(options)


def is_plugin(name: str) -> bool:
    """Does an installed plug-in, working or broken, have this name?"""
    return name not in _file_names() and name in plugin_names()


def owner_of(switch: str) -> EngineSpec | None:
    """The first engine that has this switch; None where every engine has it, or none does."""
    if switch in _COMMON:
        return None
    return _owners().get(switch) or next((spec for spec in engines() if _has(spec, switch)), None)


def change_engine(options: EngineOptions, name: str, switches: Mapping[str, Any]) -> EngineOptions:
    """Options of the engine `name` with these switches; what both engines know is carried over."""
    kind = find_engine(name).options
    kept = {field: getattr(options, field) for field in kind.__struct_fields__ if hasattr(options, field)}
    return kind(**kept | dict(switches) | {"name": name})


def assignments_for(engine: str, engines: Sequence[str], assignments: Sequence[str]) -> list[str]:
    """The `key=value` of `assignments` for one of several engines that run side by side.

    A switch which others of them have and this one lacks is for those alone. Unknown engines have none.
    """
    specs = [spec for name in engines if (spec := _known(name))]
    own = _known(engine)

    def is_for_others(assignment: str) -> bool:
        table, _, switch = assignment.partition("=")[0].strip().partition(".")
        lacked = table == "engine" and own is not None and not _has(own, switch)
        return lacked and any(_has(spec, switch) for spec in specs)

    return [assignment for assignment in assignments if not is_for_others(assignment)]


def find_system(name: str) -> System:
    """What the planner knows of a training system: an engine, or a stack that rows were published of.

    Raises TgsError that names the known ones.
    """
    costs = costs_of(name)
    if costs is None:
        raise TgsError(
            f"no system called {name!r}; {nearest(name, systems())}", exit_code=ExitCode.UNSUPPORTED
        )
    return costs


def system_of(options: EngineOptions) -> System:
    """What the planner knows of the engine that these options ask for; raises TgsError as `find_system`."""
    spec = _known(options.name)
    return (spec and spec.with_options(options).costs) or find_system(options.name)


def costs_of(name: str) -> System | None:
    """The same, None for a system that nobody described; no other system's file is imported."""
    if (spec := _known(name)) is not None:
        return spec.costs
    from tgsbench.systems.stacks import STACKS  # here, for most starts name an engine

    return STACKS.get(name)


@cache
def systems() -> Mapping[str, System]:
    """Costs of every system that tgsbench itself knows, by name."""
    from tgsbench.systems.stacks import STACKS  # here, for most starts name an engine

    found = {spec.costs.name: spec.costs for spec in built_in().values() if spec.costs}
    return found | STACKS


def title_of(name: str) -> str:
    """A system's name as its makers write it; its own where nobody has said."""
    return _read(name).title if name in _file_names() else name


def log_note(name: str) -> str:
    """What to know of figures read from this system's log."""
    return next((spec.log_note for spec in engines() if spec.name == name), "")


def engine_distributions() -> dict[str, str]:
    """Distributions that only some engines of our ranks need -> the extra that installs them."""
    return {
        (p.distribution or p.module): p.extra
        for spec in built_in().values()
        for p in spec.packages
        if p not in DEFAULT.packages
    }


def _known(name: str) -> EngineSpec | None:
    spec = _read(name) if name in _file_names() else load_plugin(name)
    return spec if isinstance(spec, EngineSpec) else None


@cache
def _file_names() -> frozenset[str]:
    """What the files of `systems/engines` are called: as their engines."""
    return frozenset(path.stem for path in _FOLDER.glob("[a-z]*.py"))


@cache
def _read(name: str) -> EngineSpec:
    """Import one engine's file alone: a start pays for the engine that it names."""
    spec: EngineSpec = importlib.import_module(f"tgsbench.systems.engines.{name}").ENGINE
    return spec


def _plugged() -> list[EngineSpec | BrokenPlugin]:
    found = (load_plugin(name) for name in plugin_names() if name not in _file_names())
    return [spec for spec in found if spec is not None]


@cache
def _owners() -> dict[str, EngineSpec]:
    """tgsbench's own engines by switch, so that a switch of one of them needs no look at plug-ins."""
    owners: dict[str, EngineSpec] = {}
    for spec in built_in().values():
        for switch in spec.options.__struct_fields__:
            owners.setdefault(switch, spec)
    return owners


def _has(spec: EngineSpec, switch: str) -> bool:
    return switch in spec.options.__struct_fields__
