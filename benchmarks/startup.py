"""What listing presets costs as a whole process, over importing the three libraries it cannot do without.

`python -m benchmarks.startup [--json OUT]`; alternates both commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pairs import ratio, store

NUM_PAIRS = 30
LISTING = [sys.executable, "-m", "tgsbench", "presets"]
IMPORTS = [sys.executable, "-c", "import click, msgspec, tomllib"]


def main() -> None:
    """Time both commands in turn, after one run of each that is not counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pairs = [(_seconds(LISTING), _seconds(IMPORTS)) for _ in range(NUM_PAIRS + 1)][1:]
    listing, imports = zip(*pairs, strict=True)
    store(args.json, [ratio("startup", "tgsbench presets", "imports", listing, imports, "to reach: <= 2")])


def _seconds(argv: list[str]) -> float:
    begin_s = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin_s


if __name__ == "__main__":
    main()
