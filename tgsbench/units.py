"""Parse and print quantities; the only place that rounds for people."""

from __future__ import annotations

import re

_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_LENGTH = re.compile(r"^\s*(-?\d+(?:\.\d+)?)\s*([kKmMgG]?)i?\s*$")

_LONGEST = 2**50
"""Tokens; up to here a float still holds every whole number."""

GIB = 2**30


def parse_length(text: str | int) -> int:
    """Read a sequence length such as 8192, "8k" or "1M" (powers of two, as the field writes them).

    Raises ValueError when the text is no positive whole number of tokens.
    """
    match = None if isinstance(text, bool) else _LENGTH.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a length; write tokens such as 8192, 8k, 128k or 1M")
    value = float(match[1]) * _BINARY[match[2].lower()]
    if not 1 <= value <= _LONGEST or value != int(value):
        raise ValueError(f"{text!r} is not a positive whole number of tokens")
    return int(value)


def parse_count(text: str) -> int | None:
    """Read a whole number of at most 18 plain digits, as a port or a rank; None when it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def length(tokens: int) -> str:
    """Print a sequence length the way the field does: 8192 -> "8k", 1048576 -> "1M"."""
    for suffix, size in (("M", 2**20), ("k", 2**10)):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{suffix}"
    return str(tokens)


def rate(value: float) -> str:
    """Print a TGS or TFLOPs figure with four significant digits and thousands separators."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.1f}"
    return three(value) if value < 1 else f"{value:.2f}"


def three(value: float) -> str:
    """Print three significant digits, never as a power of ten: 0.0123, 4.56, 1,363."""
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1000:
        return f"{value:,.0f}"
    text = f"{rounded:g}"
    return text if "e" not in text else f"{rounded:.12f}".rstrip("0").rstrip(".")


def as_published(value: float) -> str:
    """Print a figure with the digits that its source gives: 3028.3 stays 3028.3, not 3,028."""
    return repr(float(value))


def gib(num_bytes: float) -> str:
    """Print bytes in GiB."""
    return f"{num_bytes / GIB:.2f} GiB"


def size(num_bytes: float) -> str:
    """Print bytes in the largest binary unit that keeps a figure before the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """Print a duration: 2.8e-5 -> "28 µs", 0.0421 -> "42.1 ms", 75 -> "1:15", 7500 -> "2:05:00"."""
    if 0 < seconds < 1e-4:
        return f"{three(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{three(seconds * 1000)} ms"
    if seconds < 60:
        return f"{three(seconds)} s"
    minutes, sec = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{sec:02}" if hours else f"{minutes}:{sec:02}"


def percent(fraction: float, decimals: int | None = None) -> str:
    """Print a fraction as a percentage: three significant digits, or `decimals` of them for columns."""
    return f"{three(100 * fraction)} %" if decimals is None else f"{100 * fraction:.{decimals}f} %"


def counted(number: int, noun: str) -> str:
    """Print a number of things: 1 -> "1 run", 2 -> "2 runs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
