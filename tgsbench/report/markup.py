"""HTML and SVG elements whose text is always escaped: a run named `<script>` stays text."""

from __future__ import annotations

import html

_VOID = frozenset({"meta", "br", "hr", "line", "rect", "circle", "path", "polyline", "col"})


class Safe(str):
    """Markup that `tag`, `join` or `trusted` made; any other string is text and gets escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Safe:
    """One element; children that are not Safe are escaped, and so is every attribute.

    A trailing underscore of an attribute's name is dropped (class_), others become hyphens; None is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_number(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Safe(f"<{name}{shown}/>")
    return Safe(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*parts: str) -> Safe:
    """Parts one after another, text escaped."""
    return Safe("".join(part if isinstance(part, Safe) else html.escape(part) for part in parts))


def trusted(markup: str) -> Safe:
    """Markup from this project's own source, such as its style sheet; never from data."""
    return Safe(markup)


def _number(value: object) -> str:
    """Coordinates with one decimal: a tenth of a pixel cannot be seen, and pages stay small."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
