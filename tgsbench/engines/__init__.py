"""Engines that train: built once, in a process of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.errors import ExitCode, TgsError

if TYPE_CHECKING:
    import torch

    from tgsbench.engines.base import Engine, Note
    from tgsbench.parallel.mesh import SequenceMesh
    from tgsbench.schema.preset import Preset


def build(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> Engine:
    """Build the engine a preset names; `note` says what takes long, such as compiling an op.

    Raises TgsError when the engine is not one that runs inside our ranks, or lacks a package.
    """
    if preset.engine.name == "fsdp2":
        from tgsbench.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(preset, mesh, device)
    if preset.engine.name == "deepspeed":
        from tgsbench.engines.deepspeed.setup import prepare

        prepare(device, note)  # before the next import, which fixes DeepSpeed's accelerator
        from tgsbench.engines.deepspeed.engine import DeepSpeedEngine

        return DeepSpeedEngine(preset, mesh, device, note)
    raise TgsError(f"engine {preset.engine.name!r} does not run inside ranks", exit_code=ExitCode.UNSUPPORTED)
