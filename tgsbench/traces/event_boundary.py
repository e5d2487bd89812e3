"""Where an event of a JSON array ends, in a buffer that may stop in the middle of one."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_SEPARATORS: Final = (b"},\n", b"},\r\n", b'}, {"', b'},{"')
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}"]', re.DOTALL)
_OPENING: Final = (ord("["), ord("{"))


class End(NamedTuple):
    """How far a buffer holds whole events."""

    events: int
    """Offset after the last whole event; 0: there is none."""
    closed: bool
    """The bracket that closes the array follows."""


def likely_end(buffer: bytearray, filled: int) -> int:
    """Offset after what looks like the last event with a successor; 0: none.

    Torch writes a line break between events, json.dump a blank, compact writers nothing. The offset may lie
    inside an event's arguments or a string: then what stands before it is no valid JSON, and `exact_end`
    tells.
    """
    for separator in _SEPARATORS:
        at = buffer.rfind(separator, 0, filled)
        if at > 0:
            return at + 1
    return 0


def likely_piece(data: bytes) -> bytes:
    """Whole events from the middle of a trace: the first and the last that may be cut are left out."""
    for separator in _SEPARATORS:
        begin, end = data.find(separator), data.rfind(separator)
        if 0 <= begin < end:
            return data[begin + separator.index(b",") + 1 : end + 1]
    return b""


def exact_end(buffer: bytearray, filled: int) -> End:
    """Count brackets from the start, where the array's own bracket stands (or the comma in its place)."""
    depth, events = 1, 0
    for token in _TOKEN.finditer(buffer, 1, filled):
        first = buffer[token.start()]
        if first == ord('"'):
            if token.end() - token.start() == 1:
                break  # a string that goes on beyond the buffer
        elif first in _OPENING:
            depth += 1
        else:
            depth -= 1
            if depth == 1:
                events = token.end()
            if depth == 0:
                return End(events, True)
    return End(events, False)
