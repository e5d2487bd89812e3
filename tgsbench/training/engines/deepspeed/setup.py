"""Gets DeepSpeed ready in a rank: accelerator, op builds that can be seen, one engine per process."""

from __future__ import annotations

import os
import warnings

import torch

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.training.engines.base import Note
from tgsbench.training.engines.deepspeed import ops

_built = False


def claim_process() -> None:
    """Refuse a second engine in one process.

    ALST replaces an attention function for the whole process and fixes its head counts at the first
    model, so a second one would be split wrongly (DeepSpeed issue 8291).
    Raises TgsError when an engine was built in this process before.
    """
    global _built
    if _built:
        raise TgsError(
            "a process can hold one DeepSpeed engine: ALST patches transformers for the whole process",
            hint="start another process for another model",
            exit_code=ExitCode.UNSUPPORTED,
        )
    _built = True


def name_cpu_ranks() -> None:
    """Tell DeepSpeed that devices are CPU ranks, and how many this machine has.

    It would count NUMA nodes, in a process of its own (`numactl --hardware`) at each reduction: two a step.
    """
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["LOCAL_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", "1")


def prepare(device: torch.device, note: Note) -> None:
    """Import DeepSpeed for this device and bind it to the process group that is already there.

    Raises TgsError when it is not installed.
    """
    if device.type == "cpu":
        name_cpu_ranks()
    # DeepSpeed 0.19 calls names of torch.distributed that 2.13 renamed, hundreds of times a step, and each
    # call would print two lines into the rank's log.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    note("importing DeepSpeed")
    try:
        import deepspeed
        from deepspeed.ops import op_builder
    except ImportError as error:
        raise TgsError(
            f"engine deepspeed cannot run here: {error}",
            hint=pip_install("deepspeed"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    ops.announce_builds(op_builder.builder.OpBuilder, note)
    # DeepSpeed compiles it (30 s) when it first meets a CPU, but only inference's all-reduce calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo")
