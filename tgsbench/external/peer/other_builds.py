"""Run a script where torchvision and torchaudio are of another build than torch: `torchrun FILE SCRIPT …`.

The package index has both for CUDA alone; neither loads beside a CPU build of torch, and text needs neither.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
import types

import torch


def main() -> None:
    """Take what does not load out of the script's way, then run it as if it had been started alone."""
    declare_missing_operators()
    stand_in_for_audio()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


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
