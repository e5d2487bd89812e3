"""XTuner's training on CPU ranks: `torchrun FILE CONFIG …`.

Its checks ask for a GPU and for flash-attn before they allow sequence parallelism; the all-to-alls and
PyTorch's own attention work without both, so the checks are answered and nothing else is changed.
"""

from __future__ import annotations

import runpy
from typing import Any

import torch


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Setting a CUDA device has no meaning here."""


def _no(*_args: Any, **_kwargs: Any) -> bool:
    return False


def main() -> None:
    """Let the checks for a GPU and flash-attn pass, then run XTuner's own training script."""
    import deepspeed

    # DeepSpeed compiles it in every rank (minutes on few cores), and only inference calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.cuda.set_device = _nothing
    torch.cuda.is_bf16_supported = _no
    torch.cpu.is_bf16_supported = _no  # type: ignore[attr-defined]
    import xtuner.model.modules.dispatch as dispatch
    import xtuner.model.sft as sft

    dispatch.SUPPORT_FLASH2 = True
    sft.SUPPORT_FLASH2 = False
    runpy.run_module("xtuner.tools.train", run_name="__main__")


if __name__ == "__main__":
    main()
