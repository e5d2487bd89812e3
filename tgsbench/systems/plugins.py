"""Engines of third parties: entry points of the group `tgsbench.systems`, looked at only when one is needed.

[project.entry-points."tgsbench.systems"]
echo = "tgsbench_echo.engine:ENGINE"
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from tgsbench.systems.spec import EngineSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "tgsbench.systems"


class BrokenPlugin(Struct, frozen=True):
    """An installed plug-in that gives no engine, and why."""

    name: str
    reason: str


def plugin_names() -> list[str]:
    """Names that installed distributions offer, ascending; nothing of theirs is imported."""
    return sorted(_entry_points())


@cache
def load_plugin(name: str) -> EngineSpec | BrokenPlugin | None:
    """The engine of an installed plug-in, why it gives none, or None where no plug-in has this name."""
    entry = _entry_points().get(name)
    if entry is None:
        return None
    try:
        found = entry.load()
    except Exception as error:  # noqa: BLE001 - the import of a stranger's module may raise anything
        return _broken(entry, f"{type(error).__name__}: {error}")
    if not isinstance(found, EngineSpec):
        return _broken(entry, f"{entry.value} is no EngineSpec")
    if found.name != name or found.options().name != name:
        return _broken(entry, f"its spec or its options name the engine {found.name!r}, not {name!r}")
    return found


@cache
def _entry_points() -> dict[str, EntryPoint]:
    if not _is_offered():
        return {}
    from importlib.metadata import entry_points  # 10 ms that no start without a plug-in shall pay

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _is_offered() -> bool:
    """Does any installed distribution's list of entry points hold the group's name?"""
    return any(_names_group(Path(folder or ".")) for folder in sys.path)


def _names_group(folder: Path) -> bool:
    if folder.is_file():
        return True  # a zip file, which importlib.metadata reads
    try:
        found = [e.path for e in os.scandir(folder) if e.name.endswith((".dist-info", ".egg-info", ".egg"))]
    except OSError:
        return False
    return any(
        _holds(path, "entry_points.txt") or _holds(path, "EGG-INFO/entry_points.txt") for path in found
    )


def _holds(folder: str, name: str) -> bool:
    try:
        return GROUP.encode() in Path(folder, name).read_bytes()
    except OSError:
        return False


def _broken(entry: EntryPoint, reason: str) -> BrokenPlugin:
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return BrokenPlugin(entry.name, f"plug-in {entry.name!r}{package} gives no engine: {reason}")
