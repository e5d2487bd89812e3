"""What files hold reaches the terminal as text only: no escape sequence, no mark that turns a line around."""

from __future__ import annotations

from rich.cells import set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from tgsbench.safe_files import printable


class HarmlessFilter(LineFilter):
    """Applied to every line before it is written: the last gate, whatever a widget forgot."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments without control characters, as wide as before."""
        return [
            segment if segment.text.isprintable() or segment.control else _harmless(segment)
            for segment in segments
        ]


def _harmless(segment: Segment) -> Segment:
    """Widgets counted a control character as no cell: spelled out it must not push the rest of the line."""
    text = printable(segment.text).replace("\n", " ").replace("\t", " ")
    return Segment(set_cell_size(text, segment.cell_length), segment.style)
