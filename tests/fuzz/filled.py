"""Documents whose every text is hostile, made from their types: a new field is fed by itself."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

ESCAPES = "\x1b]0;owned\x07\x1b]52;c;AAAA\x07\x9b31m\x9d0;c1\x9c\x7f\u202egnp.exe\u2066\u2028"
"""Window title, clipboard, C1 controls, DEL, marks that turn a line around, a line separator."""
FORBIDDEN = ("\x1b]", "\x07", "\x9b", "\x9d", "\x9c", "\x7f", "\u202e", "\u2066", "\u2028")
FORGED = "FORGED"
"""Begins a line of its own where a name may hold line breaks."""


def filled(kind: Any, name: str = "x", keep: dict[str, Any] | None = None) -> Any:
    """A value of a type, as plain JSON; `keep` gives the values that a reader needs to get anywhere."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return filled(args[0], name)
    if origin is Literal:
        return args[0]
    if origin in (Union, types.UnionType):
        return filled(next(a for a in args if a is not type(None)), name)
    if origin is dict:
        return {filled(args[0], name): filled(args[1], name)}
    if origin is tuple and args[-1] is not ...:
        return [filled(a, name) for a in args]
    if origin in (list, tuple):
        return [filled(args[0], name)]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(kind, keep or {})
    if name == "family":
        return "llama"  # a document whose family nobody knows is not read any further
    text = f"{name}{ESCAPES}\n{FORGED} {name}"
    return {str: text, Any: text, int: 1, float: 1.5, bool: True}[kind]


def _struct(kind: type[msgspec.Struct], keep: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    names = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(kind)}
    found = {name: keep.get(name, filled(hint, name)) for name, hint in names.items() if name not in keep}
    tag = kind.__struct_config__.tag
    return found | keep | ({kind.__struct_config__.tag_field or "type": tag} if tag else {})


def num_texts(document: Any) -> int:
    """How many texts of a document are hostile."""
    if isinstance(document, dict):
        return sum(num_texts(key) + num_texts(value) for key, value in document.items())
    if isinstance(document, list):
        return sum(map(num_texts, document))
    return isinstance(document, str) and ESCAPES in document
