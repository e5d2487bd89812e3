"""Builds the engine that a preset names, and the batches that it trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.errors import ExitCode, TgsError
from tgsbench.system.allocator import keep_freed_blocks
from tgsbench.systems.entry import load_entry
from tgsbench.systems.registry import find_engine
from tgsbench.systems.spec import Native
from tgsbench.training.engines.batches import Batches
from tgsbench.training.parallel.gloo_sums import reduce_scatter_by_exchange

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
    if device.type == "cpu":
        keep_freed_blocks()  # a step's tensors were mapped anew each time: 3,054 page faults, 268 are left
        reduce_scatter_by_exchange()
    engine: Engine = load_entry(_launch(preset).build)(preset, mesh, device, note)
    return engine


def make_batches(preset: Preset, mesh: SequenceMesh, data: PackedDataset, device: torch.device) -> Batches:
    """What a rank trains on: packs read and cut by itself, or dealt as its engine has it."""
    entry = _launch(preset).make_batches
    batches: Batches = (load_entry(entry) if entry else Batches)(preset, mesh, data, device)
    return batches


def preload_engine(name: str) -> None:
    """Import what ranks on a CPU will import for an engine; raises ImportError when a package is missing."""
    launch = find_engine(name).launch
    assert isinstance(launch, Native), name
    if launch.preload:
        load_entry(launch.preload)()
    else:
        load_entry(launch.build)


def _launch(preset: Preset) -> Native:
    name = preset.engine.name
    launch = find_engine(name).launch
    if not isinstance(launch, Native):
        raise TgsError(f"engine {name!r} does not run inside ranks", exit_code=ExitCode.UNSUPPORTED)
    return launch
