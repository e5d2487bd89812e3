"""Profiler spans that cost one flag test while nothing is captured."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.profiler import record_function

_NOTHING: AbstractContextManager[Any] = nullcontext()
_capturing = False


def set_capturing(on: bool) -> None:
    """Switch spans on for the profiled steps and off again after them."""
    global _capturing
    _capturing = on


def span(name: str) -> AbstractContextManager[Any]:
    """Mark what runs inside as `name` in a trace (a record_function costs 6 µs, this test 0.1 µs)."""
    return record_function(name) if _capturing else _NOTHING
