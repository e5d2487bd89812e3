"""A small dot canvas: 2 × 4 dots a character in braille, 1 × 2 in ASCII; for the TUI and plain terminals."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

_BRAILLE_BASE = 0x2800
_BRAILLE_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of the dot at [column][row] of a braille cell, from the Unicode chart U+2800."""
_BRAILLE_GLYPHS = (" ", *(chr(_BRAILLE_BASE + bits) for bits in range(1, 256)))
_ASCII_GLYPHS = (" ", "'", ".", ":")
"""Glyph of an ASCII cell by its bits: 1 upper half, 2 lower half."""


class Cells(NamedTuple):
    """Neighbouring characters of one row that belong to one series."""

    text: str
    role: str
    """Name of the series that drew last there, or empty."""


class Canvas:
    """A grid of dots, `columns` × `rows` characters; dot (0, 0) is the upper left one."""

    def __init__(self, columns: int, rows: int, *, ascii_only: bool = False) -> None:
        self.columns = max(1, columns)
        self.rows = max(1, rows)
        self.ascii_only = ascii_only
        self.dots_wide = self.columns * (1 if ascii_only else 2)
        self.dots_high = self.rows * (2 if ascii_only else 4)
        self._bits = [0] * (self.columns * self.rows)
        self._roles = [""] * (self.columns * self.rows)

    def dot(self, x: int, y: int, role: str = "") -> None:
        """Set one dot; dots outside the canvas are dropped."""
        self.span(x, y, y, role)

    def span(self, x: int, top: int, bottom: int, role: str = "") -> None:
        """Set the dots of column `x` from `top` to `bottom`, both included, clipped to the canvas."""
        if not 0 <= x < self.dots_wide:
            return
        high = 2 if self.ascii_only else 4
        bit_row = (1, 2) if self.ascii_only else _BRAILLE_BITS[x & 1]
        cell_x = x if self.ascii_only else x >> 1
        for y in range(max(0, top), min(self.dots_high - 1, bottom) + 1):
            cell = (y // high) * self.columns + cell_x
            self._bits[cell] |= bit_row[y % high]
            self._roles[cell] = role

    def runs(self) -> list[list[Cells]]:
        """Each row as runs of equal role, top row first."""
        return [self._row_runs(row) for row in range(self.rows)]

    def lines(self) -> list[str]:
        """Each row as plain text, top row first."""
        return ["".join(run.text for run in row) for row in self.runs()]

    def _row_runs(self, row: int) -> list[Cells]:
        own = slice(row * self.columns, (row + 1) * self.columns)
        glyphs = _ASCII_GLYPHS if self.ascii_only else _BRAILLE_GLYPHS
        text = "".join([glyphs[bits] for bits in self._bits[own]])
        runs: list[Cells] = []
        begin = 0
        for role, cells in groupby(self._roles[own]):
            end = begin + len(list(cells))
            runs.append(Cells(text[begin:end], role))
            begin = end
        return runs
