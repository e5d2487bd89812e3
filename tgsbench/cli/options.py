"""Options of a command from the fields of a struct: their type, default, and msgspec.Meta with the help."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from msgspec import Meta, Struct

Option = Callable[[Callable[..., None]], Callable[..., None]]
_Options = TypeVar("_Options", bound=Struct)


def own_options(options: type[Struct]) -> list[Option]:
    """The options of a struct: one for each field."""
    hints = typing.get_type_hints(options, include_extras=True)
    found: list[Option] = []
    for name, default in zip(options.__struct_fields__, options.__struct_defaults__, strict=True):
        meta = next((m for m in getattr(hints[name], "__metadata__", ()) if isinstance(m, Meta)), Meta())
        extra = meta.extra or {}
        how = {bool: {"is_flag": True}, tuple: {"multiple": True}}.get(type(default), {"type": type(default)})
        flag, metavar = extra.get("flag", f"--{name.replace('_', '-')}"), extra.get("metavar")
        found.append(
            click.option(flag, f"own_{name}", default=default, help=meta.description, metavar=metavar, **how)
        )
    return found


def wishes(options: type[_Options], given: Mapping[str, Any]) -> _Options:
    """The struct of what was given to `own_options`."""
    return options(**{field: given[f"own_{field}"] for field in options.__struct_fields__})
