"""LLaMA-Factory's training on CPU ranks: `torchrun FILE CONFIG`.

DeepSpeed compiles an op of shared memory in every rank (minutes on few cores) that only inference calls.
The package index has torchvision and torchaudio for CUDA alone; neither loads beside a CPU build of torch.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
import types

import torch


def main() -> None:
    """Take what is not for this CPU out of its way, then run LLaMA-Factory: its launcher, or a script."""
    declare_missing_operators()
    stand_in_for_audio()
    if sys.argv[1:2] == ["--script"]:
        del sys.argv[:2]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    runpy.run_module("llamafactory.launcher", run_name="__main__")


def declare_missing_operators() -> None:
    """Let a torchvision of another build be imported: text is trained without its operators."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):  # those that its own Python describes, loaded or not
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(declared)
    except ImportError:
        pass


def stand_in_for_audio() -> None:
    """An empty torchaudio in place of one that does not load: text is trained without it."""
    try:
        import torchaudio  # noqa: F401
    except OSError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = empty
    except ImportError:
        pass


_KEPT: list[torch.library.Library] = []
"""Operators are there as long as their library."""


if __name__ == "__main__":
    main()
