"""The [engine] table of a preset: its name chooses the struct of options that the other keys belong to."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tgsbench.errors import TgsError
from tgsbench.schema.preset import EngineOptions
from tgsbench.systems import registry
from tgsbench.systems.spec import EngineSpec


class EngineTable(Struct, frozen=True):
    """An [engine] table before its values are typed."""

    options: type[EngineOptions]
    """What its keys are fields of."""
    own: Any
    """The table without switches of other engines; what it is, where it is no table."""
    refused: dict[str, str]
    """Dotted key -> why it cannot stand here."""

    @property
    def is_known(self) -> bool:
        """Does it name an engine?"""
        return "engine.name" not in self.refused


def read(table: Any) -> EngineTable:
    """Choose the options of the engine that a table names, the default one where it names none.

    A switch of another engine is refused with its owner's name. At its default it asks for nothing and is
    dropped: presets of earlier versions hold the switches of all engines.
    """
    if not isinstance(table, dict):
        return EngineTable(EngineOptions, table, {})
    spec, problem = _chosen(table.get("name", registry.DEFAULT.name))
    options = spec.options if spec else EngineOptions
    own, refused = {}, {"engine.name": problem} if problem else {}
    for key, value in table.items():
        owner = None if key in options.__struct_fields__ else registry.owner_of(key)
        if owner is None:
            own[key] = value
        elif spec is not None and value != getattr(owner.options(), key):
            refused[f"engine.{key}"] = (
                f'engine.{key} belongs to engine "{owner.name}"; use --engine {owner.name}'
            )
    return EngineTable(options, own, refused)


def _chosen(name: Any) -> tuple[EngineSpec | None, str]:
    """The engine of this name, or what is wrong with it."""
    try:
        if isinstance(name, str):
            return registry.find_engine(name), ""
    except TgsError as error:
        if registry.is_plugin(name):
            return None, f"engine.name: {error.msg}"
    return None, f"engine.name: {name!r} is none of {', '.join(registry.names())}"
