"""The engine itself, imported in the ranks alone."""

from __future__ import annotations

import torch
from torch import Tensor

from tgsbench.schema.preset import Preset
from tgsbench.systems.spec import options_of
from tgsbench.training.engines.base import Batch, Engine, Note
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench_echo.spec import EchoOptions


class EchoEngine(Fsdp2Engine):
    """FSDP2 that counts its micro-steps aloud."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, device: torch.device) -> None:
        super().__init__(preset, mesh, device)
        self._every = options_of(preset, EchoOptions).echo_every
        self._num_micro_steps = 0

    def forward_backward(self, batch: Batch, num_labels: int) -> Tensor:
        """As FSDP2, then perhaps a line."""
        loss_sum = super().forward_backward(batch, num_labels)
        self._num_micro_steps += 1
        if self._num_micro_steps % self._every == 0:
            print(f"echo: micro-step {self._num_micro_steps}", flush=True)
        return loss_sum


def build(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> Engine:
    """Build the engine in a rank; `note` tells the terminal what takes long."""
    note("echo: building the model")
    return EchoEngine(preset, mesh, device)
