"""A figure of every step of a run of any length, in constant memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from random import Random
from typing import Final, overload

MOST: Final = 1 << 16
"""Figures kept: the median of so many lies within 0.5 % of their spread of the median of all."""


class Thinned(Sequence[float]):
    """Figures in the order they came; of more than `MOST` one of each 2, 4, 8… neighbours stands for them.

    Which one is drawn (from one seed, so that the same figures give the same sample): every eighth step
    would show all or none of what happens every eighth step.
    """

    def __init__(self, most: int = MOST) -> None:
        """`most`: an even number of figures."""
        self._most = most
        self._kept = array("d")
        self._random = Random(0)
        self._chosen = 0
        self.stride = 1
        """Neighbours that one figure stands for."""
        self.num_told = 0

    def append(self, value: float) -> None:
        """Take in the next figure."""
        place = self.num_told % self.stride
        if place == 0:
            self._chosen = self._random.randrange(self.stride) if self.stride > 1 else 0
        if place == self._chosen:
            self._kept.append(value)
        self.num_told += 1
        if len(self._kept) == self._most and self.num_told % self.stride == 0:
            self._halve()

    def _halve(self) -> None:
        pairs = range(0, self._most, 2)
        self._kept = array("d", (self._kept[at + self._random.randrange(2)] for at in pairs))
        self.stride *= 2

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        return self._kept[index]
