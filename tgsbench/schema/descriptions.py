"""What the fields of a struct mean, as the docstrings beneath them say: one text for whoever shows them."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap

from msgspec import Struct


@functools.cache
def descriptions(struct: type[Struct]) -> dict[str, str]:
    """Field -> the docstring beneath it, in one line; fields of bases too, none without a docstring.

    Python keeps no docstrings of fields: they are read from the class's source, and missing without it.
    """
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        found |= _own(kind)
    return {name: text for name, text in found.items() if name in struct.__struct_fields__}


def _own(kind: type) -> dict[str, str]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(tree, ast.ClassDef), kind
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found
