"""Ratios of alternating samples: A B A B, median and spread of the ratio pair by pair."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Ratio:
    """a / b over pairs taken side by side."""

    name: str
    a: str
    b: str
    median: float
    low: float
    high: float
    num_pairs: int
    bound: str

    def line(self) -> str:
        """One line for people."""
        figure = f"{self.a} / {self.b} = {self.median:.3f}"
        spread = f"quartiles {self.low:.3f} to {self.high:.3f}, n = {self.num_pairs}"
        return f"{self.name}: {figure}  ({spread}; {self.bound})"


def ratio(name: str, a: str, b: str, a_s: Sequence[float], b_s: Sequence[float], bound: str) -> Ratio:
    """Median of a_s[i] / b_s[i] and its quartiles."""
    ratios = [x / y for x, y in zip(a_s, b_s, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    low, middle, high = quartiles
    return Ratio(name, a, b, middle, low, high, len(ratios), bound)


def store(path: Path | None, ratios: Sequence[Ratio]) -> None:
    """Write ratios as JSON beside printing them."""
    for item in ratios:
        print(item.line())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(item) for item in ratios], indent=2) + "\n")
