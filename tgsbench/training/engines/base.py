"""What the trainer asks of an engine: one micro-step, one optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.attention.kernels import AttentionKernel
from tgsbench.training.parallel.tracing import Mark

Note = Callable[[str], None]
"""Says what a start is busy with; shown as the note of its phase."""


@dataclass(frozen=True)
class Batch:
    """One rank's shard of one micro-step, on the device."""

    input_ids: Tensor
    """int64 [B, s]"""
    labels: Tensor
    """int64 [B, s], shifted before sharding; −100 where there is none."""
    position_ids: Tensor
    """int64 [B, s]"""
    documents: PackDocuments | None
    """Boundaries of the whole pack when attention is masked by document."""


class Engine(Protocol):
    """One way to train. Built once in a process of its own."""

    kernel: AttentionKernel
    device: torch.device

    def forward_backward(self, batch: Batch, num_labels: int) -> Tensor:
        """Run one micro-step; returns the sum of this rank's token losses (fp32 scalar, detached).

        Gradients are those of Σ loss / num_labels, with num_labels counted over all ranks and all
        micro-steps of the optimizer step.
        """
        ...

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Whole gradients by plain parameter name, between the last micro-step and optimizer_step.

        Gathers one parameter at a time: every rank must iterate to the end.
        """
        ...

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Whole fp32 master weights by plain parameter name, between optimizer steps.

        Gathers one parameter at a time: every rank must iterate to the end.
        """
        ...

    def embedding(self) -> nn.Module:
        """The module that takes token ids [B, s] in."""
        ...

    def own_masters(self, layer: int) -> Iterator[Tensor]:
        """This rank's own parts of a layer's matrices, fp32 master weights, between optimizer steps.

        Asks no other rank; nothing where this rank holds no part of them.
        """
        ...

    def own_gradients(self) -> Iterator[Tensor]:
        """This rank's own parts of the first layer's gradients, as they are summed so far in a step.

        Asks no other rank; nothing where they lie elsewhere until the step's last micro-step.
        """
        ...

    def moments_squared(self) -> float | None:
        """Sum of the squares of this rank's part of Adam's first moments; None: not known of each alone.

        Asks no other rank; summed over all ranks it covers the whole model once.
        """
        ...

    def optimizer_step(self, lr: float) -> Tensor:
        """Clip, update, clear the gradients; returns the global gradient norm before clipping."""
        ...

    def marks(self) -> list[Mark]:
        """Calls that a capture marks: the MLPs, what gathers parameters and scatters gradients."""
        ...
