"""Text that can be read in every theme: what stands out too little from its background is lifted."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rich.color import Color as RichColor
from rich.color import ColorType
from rich.segment import Segment
from rich.style import Style
from textual.color import BLACK, WHITE, Color
from textual.filter import LineFilter

READABLE: Final = 4.5
"""Least contrast of text, WCAG 2 level AA: https://www.w3.org/TR/WCAG22/#contrast-minimum."""
_STEPS: Final = 32
_FRAMES: Final = frozenset(map(chr, range(0x2500, 0x25A0))) | {" "}
"""Lines of boxes and blocks: they frame and shade, nobody reads them."""


class ContrastFilter(LineFilter):
    """Applied to every line before it is written, after all that dims."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments, their colours moved towards black or white where they are too faint."""
        return [
            segment
            if segment.control or segment.style is None or _FRAMES.issuperset(segment.text)
            else Segment(segment.text, _readable_style(segment.style, background))
            for segment in segments
        ]


@lru_cache(4096)
def _readable_style(style: Style, background: Color) -> Style:
    pair = colours(style, background)
    if pair is None:
        return style
    front, back = pair
    lifted = readable(front, back)
    if lifted == front:
        return style
    exact = lifted.rich_color
    return style + (Style(bgcolor=exact) if style.reverse else Style(color=exact))


def colours(style: Style, background: Color) -> tuple[Color, Color] | None:
    """Colours of text and ground as they are seen; None where the terminal chooses one of them."""
    front, back = style.color, style.bgcolor or background.rich_color
    if front is None or not (_is_exact(front) and _is_exact(back)):
        return None
    seen = Color.from_rich_color(front), Color.from_rich_color(back)
    return (seen[1], seen[0]) if style.reverse else seen


def _is_exact(colour: RichColor) -> bool:
    return colour.type is ColorType.TRUECOLOR


@lru_cache(4096)
def readable(front: Color, back: Color) -> Color:
    """`front`, or the nearest colour on the way from it to black or white that stands out enough."""
    if contrast(front, back) >= READABLE:
        return front
    goal = max(BLACK, WHITE, key=lambda end: contrast(end, back))
    blends = (front.blend(goal, step / _STEPS, 1) for step in range(1, _STEPS + 1))
    return next((colour for colour in blends if contrast(colour, back) >= READABLE), goal)


def contrast(one: Color, other: Color) -> float:
    """Contrast ratio of two colours, 1 to 21, by WCAG 2's formula."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@lru_cache(4096)
def _luminance(colour: Color) -> float:
    def linear(channel: int) -> float:
        share = channel / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    return 0.2126 * linear(colour.r) + 0.7152 * linear(colour.g) + 0.0722 * linear(colour.b)
