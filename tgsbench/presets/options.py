"""Every key of a preset as an option: what it does, its values, who has it; read off the schema itself."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets.effect import CONDITIONS
from tgsbench.presets.validate import divisors, valid_ep, valid_rings, valid_sp
from tgsbench.schema.descriptions import descriptions
from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems import registry

_ABILITIES: Final = {
    "parallel.ring": "has_ring",
    "parallel.shard": "has_copies",
    "parallel.ep": "has_expert_parallel",
    "training.reduce_dtype": "has_copies",
    "training.linear": "has_fp8",
    "training.fp8_recipe": "has_fp8",
}
"""Options outside [engine] that take an engine's ability."""
_KINDS: Final = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    list[str]: "a list of texts",
}  # fmt: skip


class Option(Struct, frozen=True, kw_only=True):
    """One key of a preset."""

    key: str
    what: str
    """What it does, as the schema says beneath the field."""
    kind: str
    """Its values in words."""
    choices: list[str] = []
    """All values, where they are few."""
    default: Any = None
    """None: it must be given."""
    engines: list[str] = []
    """Engines that have it; empty: all."""
    needs: str = ""
    """Without what it has no effect."""


def option_of(key: str) -> Option:
    """The option of this name; TgsError with the nearest names when there is none."""
    known = all_options()
    if key not in known:
        same = [other for other in known if other.rpartition(".")[2] == key]
        told = f"did you mean {' or '.join(same)}?" if same else nearest(key, known, n=5)
        raise TgsError(
            f"no key of a preset is called {key!r}; {told}",
            hint="`tgsbench presets explain` lists them all",
            exit_code=ExitCode.BAD_PRESET,
        )
    return known[key]


@functools.cache
def all_options() -> dict[str, Option]:
    """Every option by its dotted key, in the order of a preset file; those of the model are its shape's."""
    found: dict[str, Option] = {}
    for field in msgspec.structs.fields(Preset):
        if field.name == "engine":
            found |= _of_engines()
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            found |= _of_table(field.type, f"{field.name}.")
    return found


def _of_engines() -> dict[str, Option]:
    """Switches of all engines, each with those that have it."""
    found: dict[str, Option] = {}
    specs = registry.engines()
    for spec in specs:
        for key, option in _of_table(spec.options, "engine.").items():
            before = found.get(key, option)
            found[key] = msgspec.structs.replace(before, engines=[*before.engines, spec.name])
    shared = {f"engine.{name}" for name in EngineOptions.__struct_fields__}
    return {
        key: msgspec.structs.replace(option, engines=[]) if key in shared else option
        for key, option in found.items()
        if key != "engine.name"
    } | {"engine.name": _engine_name([spec.name for spec in specs])}


def _engine_name(names: list[str]) -> Option:
    return Option(
        key="engine.name", what="Which system trains.", kind="one of them", choices=names,
        default=registry.DEFAULT.name,
    )  # fmt: skip


def _of_table(struct: type[Struct], at: str) -> dict[str, Option]:
    told, hints = descriptions(struct), typing.get_type_hints(struct)
    return {
        f"{at}{field.name}": _option(f"{at}{field.name}", told.get(field.name, ""), hints[field.name], field)
        for field in msgspec.structs.fields(struct)
    }


def _option(key: str, what: str, hint: Any, field: msgspec.structs.FieldInfo) -> Option:
    choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
    choices = ["false", "true"] if hint is bool else choices
    ability = _ABILITIES.get(key)
    able = [spec.name for spec in registry.engines() if ability and getattr(spec.options, ability)]
    needs = next((condition.remedy for condition in CONDITIONS if condition.key == key), "")
    return Option(
        key=key,
        what=what,
        kind=_KINDS.get(hint, "one of them" if choices else _table_in_words(hint)),
        choices=choices,
        default=None if field.default is msgspec.NODEFAULT else field.default,
        engines=able,
        needs=needs.removeprefix("nearest: 0; "),
    )


def _table_in_words(hint: Any) -> str:
    is_optional = get_origin(hint) is types.UnionType
    return "a table, or nothing" if is_optional else "a list"


def values_to_try(option: Option, preset: Preset) -> list[str]:
    """Values that a preset could have here: all where they are few, those that divide, or its own alone."""
    if option.choices:
        return option.choices
    world = preset.world_size
    found = {
        "parallel.sp": lambda: valid_sp(preset),
        "parallel.ring": lambda: valid_rings(preset),
        "parallel.shard": lambda: divisors(world),
        "parallel.ep": lambda: valid_ep(preset),
        "training.micro_batch": lambda: [1, 2, 4, 8],
    }.get(option.key)
    return list(dict.fromkeys([value_in(preset, option), *(map(str, found()) if found else ())]))


def value_in(preset: Preset, option: Option) -> str:
    """What a preset has there, as --set would write it."""
    value: Any = preset
    for part in option.key.split("."):
        value = getattr(value, part, None)
    return as_written(value)


def as_written(value: Any) -> str:
    """A value as --set takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
