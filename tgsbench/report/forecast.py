"""A forecast beside what was measured, in one line: the same words wherever both are shown."""

from __future__ import annotations

from tgsbench import units
from tgsbench.schema.forecast import Forecast


def forecast_text(forecast: Forecast | None, measured_tgs: float | None = None) -> str:
    """Estimated TGS with its error bar, measured TGS over it, estimated memory; empty without a forecast.

    TGS in tokens per GPU and second.
    """
    if forecast is None:
        return ""
    tgs, parts = forecast.tgs, []
    if tgs is not None and tgs.estimate:
        parts.append(f"TGS {units.rate(tgs.estimate)} ({units.rate(tgs.low)} to {units.rate(tgs.high)})")
        if measured_tgs is not None:
            parts[-1] += f", measured {measured_tgs / tgs.estimate:.2f} of it"
    if forecast.memory.total_gib:
        parts.append(f"memory {forecast.memory.total_gib:.2f} GiB")
    return "; ".join(parts)
