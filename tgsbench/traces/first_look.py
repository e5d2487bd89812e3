"""A first look at large traces: what kernels their time goes to, by name, from a few pieces of each file.

A trace of 5 GB takes half a minute to read; how its kernels share the time is known well after one second.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tgsbench.schema.hotspots import PARTS
from tgsbench.traces import categories
from tgsbench.traces.event import Span
from tgsbench.traces.files import READ_ERRORS, open_trace
from tgsbench.traces.trace import decode_piece

LARGE: Final = 300 << 20
"""Bytes of traces from which on a first look is worth a line: they take seconds to read."""
_PIECE: Final = 1 << 20
_NUM_PIECES: Final = 15


@dataclass
class FirstLook:
    """What pieces of a trace say; it knows more the longer one looks."""

    path: Path | None = None
    """The trace; None: there is none that can be read anywhere in."""
    num_pieces: int = 0
    """Looked at."""
    num_bytes: int = 0
    """Read of them."""
    kernel_us: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By part, of kernels and copies on devices; by name alone."""

    def shares(self) -> list[tuple[str, float]]:
        """Part and its share of the kernels' time, the largest first; empty: no kernel was seen."""
        whole = sum(self.kernel_us.values())
        found = [(part, self.kernel_us[part] / whole) for part in PARTS if self.kernel_us[part] > 0]
        return sorted(found, key=lambda pair: -pair[1])

    def look_on(self, num_pieces: int) -> None:
        """Look at so many further pieces, each as far as can be from those before."""
        if self.path is None:
            return
        try:
            with open_trace(self.path) as stream:
                if not isinstance(stream, io.FileIO):
                    return  # packed under a plain name: it has no middle to begin in
                for number in range(self.num_pieces, self.num_pieces + num_pieces):
                    self._read_piece(stream, int(self.path.stat().st_size * _place(number)))
                self.num_pieces += num_pieces
        except READ_ERRORS:
            self.path = None  # reading it whole says why

    def _read_piece(self, stream: io.FileIO, offset: int) -> None:
        stream.seek(offset)
        piece = stream.read(_PIECE)
        self.num_bytes += len(piece)
        self.add(decode_piece(piece))

    def add(self, spans: Sequence[object]) -> None:
        """Count the device's activities among some events."""
        for span in spans:
            if type(span) is Span and span.cat.lower() in _ON_DEVICE and 0 <= span.dur < 1e12:
                self.kernel_us[categories.device_kind(span.cat.lower(), span.name)] += span.dur


_ON_DEVICE: Final = ("kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel", "memcpy", "memset")


def plain_bytes(paths: Sequence[Path]) -> int:
    """Size of the traces that can be read anywhere in: plain files."""
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix == ".json")


def first_look(paths: Sequence[Path]) -> FirstLook:
    """Pieces from all over the largest of the plain traces; what is no trace says nothing here."""
    plain = [path for path in paths if path.is_file() and path.suffix == ".json"]
    found = FirstLook(max(plain, key=lambda path: path.stat().st_size, default=None))
    found.look_on(_NUM_PIECES)
    return found


def _place(number: int) -> float:
    """Of a sequence that fills [0, 1) evenly however far one goes: 1/2, 1/4, 3/4, 1/8, 5/8, …"""
    number, place, weight = number + 1, 0.0, 0.5
    while number:
        place += weight * (number & 1)
        number, weight = number >> 1, weight / 2
    return place
