"""The --ascii mode: whatever a widget draws reaches the terminal as ASCII, width for width."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_LOOKALIKES = {
    **dict.fromkeys("─━═╌╍┄┅╴╶╸╺▁▔", "-"),
    **dict.fromkeys("│┃║╎╏┆┇▏▎▕╷╵╹╻▌▐❚", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬┏┓┗┛┣┫┳┻╋", "+"),
    **dict.fromkeys("█▉▊▋▇▆▓■", "#"),
    **dict.fromkeys("▒▅▄▀", "="),
    **dict.fromkeys("░▃▂", "-"),
    **dict.fromkeys("·•∙●○◦⋅…⠒", "."),
    **dict.fromkeys("▶▸▹›»→⮕❯", ">"),
    **dict.fromkeys("◀◂‹«←", "<"),
    **dict.fromkeys("▲▴△↑⇧", "^"),
    **dict.fromkeys("▼▾▽↓", "v"),
    **dict.fromkeys("✓✔☑", "+"),
    **dict.fromkeys("✗✘✖×☒", "x"),
    **dict.fromkeys("–—−", "-"),
    "≠": "!", "ⁿ": "n", "ᵀ": "T",
    "±": "~", "≤": "<", "≥": ">", "≈": "~", "∞": "8", "Σ": "S", "∪": "U", "∩": "n", "²": "2",
    "⏎": "<", "⌫": "<", "␣": "_", "⚠": "!", "µ": "u", "°": "o", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
_TABLE = str.maketrans(_LOOKALIKES)


def to_ascii(text: str) -> str:
    """Replace each character by an ASCII look-alike of the same width, or "?"."""
    text = text.translate(_TABLE)
    if text.isascii():
        return text
    return "".join(c if c.isascii() else "?" * cell_len(c) for c in text)


class AsciiFilter(LineFilter):
    """Applied to every line before it is written."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments in ASCII."""
        return [
            segment if segment.text.isascii() else Segment(to_ascii(segment.text), segment.style)
            for segment in segments
        ]
