"""Lines of a log and the figures in them, for the readers of logs: pure, bounded, nothing is executed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

_MAX_LINE = 64 * 1024
"""Longer lines are no step of any known log."""
_MAX_TEXT_LINE = 4 * 1024
"""The same for lines that patterns search: they are quadratic, a hostile 64 KiB line took a minute."""
_ANSI = r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\\\)?"
NUMBER = r"([-+]?\d[\d,]{0,24}\.?\d{0,24}(?:[eE][-+]?\d{1,2})?(?:[kKM](?![a-zA-Z]))?)"
"""A figure as people write it, with commas, an exponent or a k for thousands; `to_float` reads it."""
INDEX = r"(\d{1,15})"
"""A count of steps."""


class LoggedStep(Struct, kw_only=True):
    """One logged iteration; what the log does not say is None."""

    iteration: int
    tgs: float | None = None
    """Tokens per GPU per second."""
    step_s: float | None = None
    tokens_all_gpus: float | None = None
    """Tokens over all GPUs in this iteration, padding included where the system counts it."""
    tflops: float | None = None
    mfu_percent: float | None = None
    loss: float | None = None
    mem_gib: float | None = None


_Row = TypeVar("_Row", bound=Struct)

LogReader = Callable[[str, int, int], list[LoggedStep]]
"""(text, num_gpus, seq_len) -> the steps of a log, empty for a log of another system."""


def text_lines(text: str) -> Iterator[str]:
    """Lines without colours; one that is too long to be a step is passed over."""
    for line in text.splitlines():
        if len(line) <= _MAX_TEXT_LINE:
            yield re.sub(_ANSI, "", line)


def typed_lines(text: str, kind: type[_Row]) -> Iterator[_Row]:
    """JSON objects of a log that are of this kind, one a line; every other line is passed over."""
    for document in json_lines(text):
        try:
            yield msgspec.convert(document, kind)
        except msgspec.ValidationError:
            continue


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects of a log, one a line; every other line is passed over."""
    for line in text.splitlines():
        if "{" not in line[:200] or len(line) > _MAX_LINE:
            continue
        try:
            row = msgspec.json.decode(re.sub(_ANSI, "", line).strip("\ufeff \t,"))
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def figure_after(before: str, line: str) -> float | None:
    """The figure that follows a pattern in a line, or None."""
    match = re.search(before + NUMBER, line)
    return to_float(match[1]) if match else None


def to_float(text: str) -> float:
    """A figure that NUMBER matched."""
    factor = {"k": 1e3, "K": 1e3, "M": 1e6}.get(text[-1:], 1.0)
    return float(text.rstrip("kKM").replace(",", "")) * factor


def finite(value: object) -> float | None:
    """A JSON value as a number, also one written as text; None for anything that is no finite one."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
