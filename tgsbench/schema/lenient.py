"""Read JSON documents that other versions wrote: a part that does not fit counts as absent, with a note."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct, ValidationError
from msgspec.structs import FieldInfo, fields

T = TypeVar("T", bound=Struct)


def decode(data: bytes | Raw, kind: type[T], droppable: Iterable[str] | None = None) -> tuple[T, list[str]]:
    """A JSON object as a struct, and a note on each part that was left out.

    `droppable` names the keys of the file that may count as absent (all that have a default, if None); what
    does not fit of a struct there is left out alone where it has a default. Unknown keys are ignored. Raises
    msgspec.DecodeError when the rest does not fit, and for text that is no JSON object.
    """
    try:
        return msgspec.json.decode(data, type=kind), []
    except ValidationError:
        parts = msgspec.json.decode(data, type=dict[str, Raw])
    notes = []
    for field in fields(kind):
        name = field.encode_name
        if name in parts and not field.required and (droppable is None or name in droppable):
            notes += _keep_what_fits(parts, field)
    return msgspec.json.decode(msgspec.json.encode(parts), type=kind), notes


def _keep_what_fits(parts: dict[str, Raw], field: FieldInfo) -> list[str]:
    """Take the field out of `parts`, or of a struct there the fields, that do not fit."""
    name = field.encode_name
    try:
        if not (isinstance(field.type, type) and issubclass(field.type, Struct)):
            msgspec.json.decode(parts[name], type=field.type)
            return []
        found, notes = decode(parts[name], field.type)
    except ValidationError as error:
        del parts[name]
        return [f"{name} counts as absent, for it cannot be read: {error}"]
    parts[name] = Raw(msgspec.json.encode(found))
    return [f"{name}.{note}" for note in notes]
