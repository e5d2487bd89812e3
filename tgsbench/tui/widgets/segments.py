"""Large digits of ASCII characters: a seven-segment display, three lines high."""

from __future__ import annotations

_ROWS = {
    "0": (" _ ", "| |", "|_|"),
    "1": ("   ", "  |", "  |"),
    "2": (" _ ", " _|", "|_ "),
    "3": (" _ ", " _|", " _|"),
    "4": ("   ", "|_|", "  |"),
    "5": (" _ ", "|_ ", " _|"),
    "6": (" _ ", "|_ ", "|_|"),
    "7": (" _ ", "  |", "  |"),
    "8": (" _ ", "|_|", "|_|"),
    "9": (" _ ", "|_|", " _|"),
    "-": ("   ", " _ ", "   "),
    ".": (" ", " ", "."),
    ",": (" ", " ", ","),
}


def seven_segment(text: str) -> str:
    """Three lines of text; a character without segments stands unchanged in the lowest."""
    glyphs = [_ROWS.get(char, (" ", " ", char)) for char in text]
    return "\n".join(" ".join(glyph[row] for glyph in glyphs) for row in range(3))
