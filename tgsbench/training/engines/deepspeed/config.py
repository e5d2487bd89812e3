"""The DeepSpeed configuration of a preset; pure."""

from __future__ import annotations

from typing import Any

from tgsbench.models.spec import num_parameters
from tgsbench.schema.preset import Preset

_MAX_BUCKET = 500_000_000
"""DeepSpeed's own default, in elements; it allocates the bucket whole, so a small model gets less."""


def deepspeed_config(preset: Preset) -> dict[str, Any]:
    """What `deepspeed.initialize` is given.

    Nothing here speaks of sequence parallelism: told of it, DeepSpeed 0.19.8 divides gradients by world/sp
    in ZeRO 1 and 2 and by world in ZeRO 3. Not told, it divides by world in all three.
    """
    return {
        "train_micro_batch_size_per_gpu": preset.training.micro_batch,
        "gradient_accumulation_steps": preset.accumulation,
        "train_batch_size": preset.training.micro_batch * preset.accumulation * preset.world_size,
        "gradient_clipping": preset.training.clip_norm,
        "bf16": {"enabled": preset.training.compute_dtype == "bfloat16"},
        # As fsdp2 reduces, and as ALST does by default; DeepSpeed's own default is bf16.
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero_config(preset),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def zero_config(preset: Preset) -> dict[str, Any]:
    """The `zero_optimization` section."""
    on_gpu = preset.hardware.device == "cuda"
    zero: dict[str, Any] = {
        "stage": preset.engine.zero_stage,
        "overlap_comm": on_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": min(_MAX_BUCKET, max(1_000_000, num_parameters(preset.model))),
    }
    offload = {"device": "cpu", "pin_memory": on_gpu}
    if preset.engine.offload != "none":
        zero["offload_optimizer"] = offload
    if preset.engine.offload == "all":
        zero["offload_param"] = offload
    return zero
