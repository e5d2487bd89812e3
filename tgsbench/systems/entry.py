"""Code that a spec names as `module:attribute`, imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any


def load_entry(entry: str) -> Any:
    """What `module:attribute` names; raises ImportError or AttributeError when it is not there."""
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)
