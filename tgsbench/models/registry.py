"""Finds a shape's family: each module of this package that has a FAMILY, and those registered by others."""

from __future__ import annotations

import importlib
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.models.family import ModelFamily

_found: dict[str, ModelFamily] = {}


def register(family: ModelFamily) -> None:
    """Add a family that is no module of this package, or replace the one of that name."""
    _found[family.name] = family


def find_family(name: str) -> ModelFamily:
    """The family that a shape names; raises TgsError with the nearest names for an unknown one."""
    family = _found.get(name) or _shipped(name)
    if family is None:
        raise TgsError(
            f"no model family called {name!r}; {nearest(name, family_names())}",
            exit_code=ExitCode.BAD_PRESET,
        )
    return family


def is_family(name: str) -> bool:
    """Is a family of that name known?"""
    return name in _found or _shipped(name) is not None


def family_names() -> list[str]:
    """Every known family; imports each module of the package."""
    shipped = [name for name in _modules() if _shipped(name) is not None]
    return sorted({*_found, *shipped})


def families() -> list[ModelFamily]:
    """Every known family, by name."""
    return [find_family(name) for name in family_names()]


def _modules() -> list[str]:
    return [path.stem for path in Path(__file__).parent.glob("*.py")]


def _shipped(name: str) -> ModelFamily | None:
    """The family in the module of that name; a name comes from a preset, so only our own are imported."""
    if name not in _modules():
        return None
    family: ModelFamily | None = getattr(importlib.import_module(f"tgsbench.models.{name}"), "FAMILY", None)
    if family is not None:
        _found[name] = family
    return family
