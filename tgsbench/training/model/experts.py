"""Experts by transformers' grouped products, with their load watched and, if asked for, evened out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

NAME = "tgsbench"
"""The `experts_implementation` that models are built with."""


@dataclass
class ExpertLoad:
    """Tokens of this rank by expert, over layers and micro-steps; kept on the device, so nothing waits."""

    is_uniform: bool = False
    """Are tokens dealt to experts in turn, whatever the router says?"""
    on_choice: Callable[[Tensor], None] | None = None
    """Is shown the experts [T, k] of each layer that runs; for `tgsbench verify` alone."""
    _layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Busiest and mean of each layer that ran. Nothing is summed up here: a selective checkpoint that runs a
    layer again must meet the operators of its forward."""

    def add(self, experts: Tensor, num_experts: int) -> None:
        """Count one layer's choices, any shape."""
        if self.on_choice is not None:
            self.on_choice(experts)
        flat = experts.flatten()
        counts = torch.zeros(num_experts, device=flat.device)
        counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
        self._layers.append((counts.max(), counts.mean()))

    def forget(self) -> None:
        """Begin anew, without waiting for the device."""
        self._layers = []

    def take(self) -> float | None:
        """Tokens of a layer's busiest expert over the mean, since the last take; None without experts."""
        layers, self._layers = self._layers, []
        if not layers:
            return None
        busiest, mean = (torch.stack(values).sum() for values in zip(*layers, strict=True))
        return float(busiest / mean)


EXPERT_LOAD = ExpertLoad()
"""One engine run per process, so one load."""


def dealt_in_turn(num_tokens: int, used: int, num_experts: int, device: torch.device) -> Tensor:
    """Experts of each token [T, k] such that each gets as many tokens as any other, give or take one."""
    return torch.arange(num_tokens * used, device=device).view(num_tokens, used) % num_experts


def experts_forward(module: Any, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """hidden [T, h], experts and their shares [T, k] -> [T, h]."""
    if EXPERT_LOAD.is_uniform:
        num_tokens, used = chosen.shape
        chosen = dealt_in_turn(num_tokens, used, module.num_experts, chosen.device)
    EXPERT_LOAD.add(chosen, module.num_experts)
    out: Tensor = grouped_mm_experts_forward(module, hidden, chosen, shares)
    return out


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
