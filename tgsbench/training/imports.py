"""Imports much at once, as a rank does before its first step."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def many_imports() -> Iterator[None]:
    """Let the collector of cycles rest meanwhile, and keep what was imported out of its way for good.

    torch and transformers are half a million objects that all stay: to look through them again and again
    takes a fifth of a rank's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
