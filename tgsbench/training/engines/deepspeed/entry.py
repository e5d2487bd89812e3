"""How the ranks get this engine; nothing here imports DeepSpeed before its accelerator is fixed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from tgsbench.systems.engines.deepspeed import DeepSpeedOptions
from tgsbench.systems.spec import options_of
from tgsbench.training.engines.batches import Batches

if TYPE_CHECKING:
    import torch

    from tgsbench.schema.preset import Preset
    from tgsbench.training.engines.base import Engine, Note
    from tgsbench.training.parallel.mesh import SequenceMesh
    from tgsbench.workload import PackedDataset


def build(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> Engine:
    """Import DeepSpeed and build its engine; raises TgsError when it is not installed."""
    from tgsbench.training.engines.deepspeed.setup import prepare

    prepare(device, note)  # before the next import, which fixes DeepSpeed's accelerator
    from tgsbench.training.engines.deepspeed.engine import DeepSpeedEngine

    return DeepSpeedEngine(preset, mesh, device, note)


def make_batches(preset: Preset, mesh: SequenceMesh, data: PackedDataset, device: torch.device) -> Batches:
    """Packs dealt by DeepSpeed's adapter if asked for, else read and cut by the rank itself."""
    if not options_of(preset, DeepSpeedOptions).data_adapter:
        return Batches(preset, mesh, data, device)
    from tgsbench.training.engines.deepspeed.data import AdapterBatches

    return AdapterBatches(preset, mesh, data, device)


def preload() -> None:
    """Import what a rank on a CPU will; raises ImportError when DeepSpeed is not installed."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import tgsbench.training.engines.deepspeed.data
    import tgsbench.training.engines.deepspeed.engine  # noqa: F401

    with contextlib.suppress(ImportError):  # what its engine imports when it is built: torch's compiler, 2 s
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
