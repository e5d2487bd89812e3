"""A forecast beside what was measured, in one line: the same words wherever both are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgsbench import units


def forecast_text(prediction: Mapping[str, Any] | None, measured_tgs: float | None = None) -> str:
    """Predicted TGS with its error bar, measured TGS over it, predicted memory; empty without a forecast.

    `prediction` is a plan as `run.json` and `result.json` keep it; TGS in tokens per GPU and second.
    """
    plan = prediction or {}
    tgs, memory = plan.get("tgs") or {}, plan.get("memory") or {}
    parts = []
    if tgs.get("predicted"):
        parts.append(
            f"TGS {units.rate(tgs['predicted'])} ({units.rate(tgs['low'])} to {units.rate(tgs['high'])})"
        )
        if measured_tgs is not None:
            parts[-1] += f", measured {measured_tgs / tgs['predicted']:.2f} of it"
    if memory.get("total_gib"):
        parts.append(f"memory {memory['total_gib']:.2f} GiB")
    return "; ".join(parts)
