"""Tails a folder of event files at 10 Hz while `live` exists, as the live view does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tgsbench.events.tail import RunTail


def main(folder: Path) -> None:
    """Read until terminated."""
    tail = RunTail(folder)
    while True:
        if (folder / "live").exists():
            tail.poll()
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
