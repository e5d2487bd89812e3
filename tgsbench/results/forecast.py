"""The planner's forecast of a run, made before it starts and kept in its result."""

from __future__ import annotations

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.planner import forecast_preset
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.system.gpus import list_gpus

_LONG_S = 3600.0


def forecast_note(preset: Preset, forecast: Forecast | None) -> str:
    """What to know before a run of more than an hour: how long, and how the same speed is had sooner."""
    step_s = forecast.step_s if forecast else None
    total_s = (step_s or 0.0) * (preset.measure.warmup + preset.measure.steps)
    if total_s < _LONG_S:
        return ""
    sooner = ""
    if preset.accumulation > 1:
        share = units.duration(total_s / preset.accumulation)
        sooner = (
            f"; with --set training.accumulation=1 the same micro-steps take {share}, "
            "one optimizer step for each"
        )
    return f"forecast: {units.duration(total_s)} for {preset.measure.steps} measured steps{sooner}"


def forecast_here(preset: Preset, virtual_gpu: str = "") -> tuple[Forecast | None, str]:
    """The forecast of a preset on this machine's GPUs or a virtual one, or None and why there is none.

    A GPU that is not described is never replaced by the preset's own.
    """
    gpu_name = virtual_gpu
    if preset.hardware.device == "cuda" and not virtual_gpu:
        gpus = list_gpus()
        gpu = presets.find_gpu(gpus[0].name) if gpus else None
        if gpus and gpu is None:
            return None, f"no peak is known for {gpus[0].name or 'this GPU'}"
        gpu_name = gpu.name if gpu else ""
    try:
        return forecast_preset(preset, gpu_name), ""
    except TgsError as error:
        return None, error.msg
