"""The planner's forecast of a run, made before it starts and kept in its result."""

from __future__ import annotations

from typing import Any

import msgspec

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.planner import predict
from tgsbench.schema.preset import Preset
from tgsbench.system.gpus import list_gpus


def forecast(preset: Preset) -> tuple[dict[str, Any] | None, str]:
    """The plan of a preset on this machine's GPUs as JSON values, or None and why there is none.

    A GPU that is not described is never replaced by the preset's own.
    """
    gpu_name = ""
    if preset.hardware.device == "cuda":
        gpus = list_gpus()
        gpu = presets.find_gpu(gpus[0].name) if gpus else None
        if gpus and gpu is None:
            return None, f"no peak is known for {gpus[0].name or 'this GPU'}"
        gpu_name = gpu.name if gpu else ""
    try:
        return msgspec.to_builtins(predict(preset, gpu_name)), ""
    except TgsError as error:
        return None, error.msg
