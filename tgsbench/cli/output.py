"""The only writer to stdout: data for people, or exactly one JSON document."""

from __future__ import annotations

import json as std_json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from tgsbench.safe_files import printable

if TYPE_CHECKING:
    from rich.table import Table


def line(text: str = "") -> None:
    """Print one line of data."""
    sys.stdout.write(printable(text).encode("utf-8", "replace").decode() + "\n")
    sys.stdout.flush()


def json(document: Any) -> None:
    """Print one JSON document."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        text = _NOT_ASCII.sub(_escaped, text)
    line(text)


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
"""In a document of JSON they stand in strings only, where an escape means the same."""


def _escaped(match: re.Match[str]) -> str:
    return std_json.dumps(match[0])[1:-1]


def table(rows: Table) -> None:
    """Print a table, as wide as the terminal or $COLUMNS; its cells are printable already."""
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(rows)
    sys.stdout.flush()


def detach_stdout() -> None:
    """Drop buffered output once the reader is gone (`| head`), so that exiting raises no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
