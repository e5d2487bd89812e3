"""Builds the engine that a preset names, and the batches that it trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.errors import ExitCode, TgsError
from tgsbench.training.engines.batches import Batches

if TYPE_CHECKING:
    import torch

    from tgsbench.schema.preset import Preset
    from tgsbench.training.engines.base import Engine, Note
    from tgsbench.training.parallel.mesh import SequenceMesh
    from tgsbench.workload import PackedDataset


def build_engine(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> Engine:
    """Build the engine a preset names; `note` says what takes long, such as compiling an op.

    Raises TgsError when the engine is not one that runs inside our ranks, or lacks a package.
    """
    if preset.engine.name == "fsdp2":
        from tgsbench.training.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(preset, mesh, device)
    if preset.engine.name == "deepspeed":
        from tgsbench.training.engines.deepspeed.setup import prepare

        prepare(device, note)  # before the next import, which fixes DeepSpeed's accelerator
        from tgsbench.training.engines.deepspeed.engine import DeepSpeedEngine

        return DeepSpeedEngine(preset, mesh, device, note)
    raise TgsError(f"engine {preset.engine.name!r} does not run inside ranks", exit_code=ExitCode.UNSUPPORTED)


def make_batches(preset: Preset, mesh: SequenceMesh, data: PackedDataset, device: torch.device) -> Batches:
    """What a rank trains on: packs read and cut by itself, or dealt by DeepSpeed's adapter if asked for."""
    if not preset.engine.data_adapter:
        return Batches(preset, mesh, data, device)
    from tgsbench.training.engines.deepspeed.data import AdapterBatches

    return AdapterBatches(preset, mesh, data, device)
