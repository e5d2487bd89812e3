"""HTML and SVG elements whose text is always escaped: a run named `<script>` stays text."""

from __future__ import annotations

from markupsafe import Markup, escape

_VOID = frozenset({"meta", "br", "hr", "line", "rect", "circle", "path", "polyline", "col"})


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """One element; children that are not Markup are escaped, and so is every attribute.

    A trailing underscore of an attribute's name is dropped (class_), others become hyphens; None is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*parts: str) -> Markup:
    """Parts one after another, text escaped."""
    return Markup("").join(parts)


def _number(value: object) -> str:
    """Coordinates with one decimal: a tenth of a pixel cannot be seen, and pages stay small."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
