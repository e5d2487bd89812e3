"""The only writer to stdout: data for people, or exactly one JSON document."""

from __future__ import annotations

import sys
from typing import Any

import msgspec


def line(text: str = "") -> None:
    """Print one line of data."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def json(document: Any) -> None:
    """Print one JSON document."""
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    line(encoded.decode())
