"""A forecast beside what was measured, in one line: the same words wherever both are shown."""

from __future__ import annotations

from tgsbench import units
from tgsbench.schema.forecast import Cost, Forecast


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


def mfu_text(mfu: float | None, of_bf16: float | None = None, decimals: int | None = None) -> str:
    """An MFU; over the FP8 peak, that over the bf16 peak stands beside it. Empty without any."""
    parts = [] if mfu is None else [units.percent(mfu, decimals)]
    if of_bf16 is None:
        return "".join(parts)
    return ", ".join([*(f"{part} of FP8" for part in parts), f"{units.percent(of_bf16, decimals)} of bf16"])


def cost_text(cost: Cost | None) -> str:
    """GPU-hours of a billion tokens, USD where a price is said, energy where power was measured."""
    if cost is None:
        return "not known"
    parts = [f"{units.rate(cost.gpu_hours)} GPU-hours"]
    if cost.usd is not None:
        parts.append(f"{cost.usd:,.0f} USD at {cost.usd_per_gpu_hour:g} USD/GPU-hour")
    if cost.kwh is not None:
        parts.append(f"{units.rate(cost.kwh)} kWh of the GPUs")
    return ", ".join(parts)
