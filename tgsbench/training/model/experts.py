"""Experts by transformers' grouped products, with their load watched and, if asked for, evened out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from tgsbench.schema import spans
from tgsbench.schema.events import RoutedTokens
from tgsbench.training.parallel.expert_exchange import ExpertExchange, expert_all_to_all
from tgsbench.training.parallel.tracing import span

NAME = "tgsbench"
"""The `experts_implementation` that models are built with."""


@dataclass
class ExpertLoad:
    """Tokens of this rank by expert, over layers and micro-steps; kept on the device, so nothing waits."""

    is_uniform: bool = False
    """Are tokens dealt to experts in turn, whatever the router says?"""
    on_choice: Callable[[Tensor], None] | None = None
    """Is shown the experts [T, k] of each layer that runs; for `tgsbench verify` alone."""
    received: int = 0
    """Rows that came to this rank's experts since the last take."""
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
        self._layers, self.received = [], 0

    def take(self) -> RoutedTokens | None:
        """What was seen since the last take; None without experts."""
        layers, received = self._layers, self.received
        self.forget()
        if not layers:
            return None
        busiest, mean = (torch.stack(values).sum() for values in zip(*layers, strict=True))
        return RoutedTokens(busiest=float(busiest / mean), received=received)


EXPERT_LOAD = ExpertLoad()
"""One engine run per process, so one load."""


def dealt_in_turn(num_tokens: int, used: int, num_experts: int, device: torch.device) -> Tensor:
    """Experts of each token [T, k] such that each gets as many tokens as any other, give or take one."""
    return torch.arange(num_tokens * used, device=device).view(num_tokens, used) % num_experts


def experts_forward(module: Any, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """hidden [T, h], experts and their shares [T, k] -> [T, h]."""
    group = expert_group_of(module)
    num_experts = module.num_experts * (group.size() if group else 1)
    if EXPERT_LOAD.is_uniform:
        num_tokens, used = chosen.shape
        chosen = dealt_in_turn(num_tokens, used, num_experts, chosen.device)
    EXPERT_LOAD.add(chosen, num_experts)
    if group is not None:
        return _on_their_ranks(module, hidden, chosen, shares, group)
    with span(spans.EXPERTS):
        out: Tensor = grouped_mm_experts_forward(module, hidden, chosen, shares)
    return out


def _on_their_ranks(
    module: Any, hidden: Tensor, chosen: Tensor, shares: Tensor, group: dist.ProcessGroup
) -> Tensor:
    """The same with this rank's experts alone: tokens go where their experts are, and results come back."""
    num_tokens, used = chosen.shape
    with torch.no_grad():
        order = chosen.flatten().argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        exchange = ExpertExchange.of(chosen, module.num_experts, group, EXPERT_LOAD.is_uniform)
    EXPERT_LOAD.received += sum(exchange.received)
    arrived = expert_all_to_all(
        hidden[order // used], exchange.sent, exchange.received, group, spans.DISPATCH
    )
    with span(spans.EXPERTS):
        alone = torch.ones(len(arrived), 1, dtype=arrived.dtype, device=arrived.device)
        results = grouped_mm_experts_forward(module, arrived, exchange.experts[:, None], alone)
    back = expert_all_to_all(results, exchange.received, exchange.sent, group, spans.COMBINE)
    weighed = (back * shares.flatten()[order, None])[place]
    return weighed.view(num_tokens, used, -1).sum(1).to(hidden.dtype)


def expert_modules(decoder: nn.Module) -> list[Any]:
    """The modules of a decoder that hold all experts of a layer."""
    return [
        module
        for module in decoder.modules()
        if isinstance(getattr(module, "gate_up_proj", None), nn.Parameter)
    ]


def share_out(decoder: nn.Module, group: dist.ProcessGroup) -> None:
    """Leave each rank of the group its part of the experts: the first dimension of their parameters."""
    for module in expert_modules(decoder):
        num = module.num_experts // group.size()
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach()[:num].clone()))
        module.num_experts, module.expert_group = num, group


def expert_group_of(module: Any) -> dist.ProcessGroup | None:
    """Ranks that this module's experts are shared out over; None where it holds all."""
    group: dist.ProcessGroup | None = getattr(module, "expert_group", None)
    return group


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
