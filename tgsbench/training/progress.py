"""Where this rank is inside its step: plain attributes that training sets and the heartbeat thread reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tgsbench.schema.events import Doing, Heartbeat


class Progress:
    """No lock and no system call: a torn read shows one heartbeat with the place of two moments."""

    __slots__ = (
        "begin_s", "collective", "doing", "layer", "micro_step", "num_layers", "num_micro_steps", "step",
        "ticks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.step = 0
        self.begin_s = 0.0
        """Monotonic clock at the step's begin."""
        self.micro_step = 0
        """The one being done, from 1; 0 outside."""
        self.num_micro_steps = 0
        self.doing: Doing = ""
        self.layer = 0
        """The decoder layer entered last, from 1; 0 outside the layers."""
        self.num_layers = 0
        self.collective = ""
        """The exchange that this rank's thread is in; on a GPU one is only queued."""
        self.ticks = 0
        """How often anything above was entered."""

    def begin_step(self, step: int, num_micro_steps: int) -> None:
        """An optimizer step begins."""
        self.step, self.num_micro_steps, self.micro_step = step, num_micro_steps, 0
        self.begin_s = time.monotonic()

    def enter_micro_step(self, micro_step: int) -> None:
        """Micro-step `micro_step` (from 0) begins, with its data."""
        self.micro_step = micro_step + 1
        self.enter("data")

    def enter(self, doing: Doing, layer: int = 0) -> None:
        """A part of a micro-step or the optimizer begins."""
        self.doing, self.layer = doing, layer
        self.ticks += 1

    def during(self, collective: str, call: Callable[[], Any]) -> Any:
        """Make an exchange; a rank that dies or hangs in it goes on saying so."""
        self.collective = collective
        done = call()
        self.collective = ""
        self.ticks += 1
        return done

    def heartbeat(self) -> Heartbeat:
        """The place now."""
        return Heartbeat(
            step=self.step,
            step_s=time.monotonic() - self.begin_s if self.begin_s else 0.0,
            micro_step=self.micro_step,
            num_micro_steps=self.num_micro_steps,
            doing=self.doing,
            layer=self.layer,
            num_layers=self.num_layers,
            collective=self.collective,
            ticks=self.ticks,
        )


PROGRESS = Progress()
"""One engine run per process, so one place."""


def follow_layers(layers: Iterable[nn.Module]) -> None:
    """Mark the begin of each layer's forward and backward; a compiled layer is left whole.

    Costs at most 19 µs a layer and micro-step (2 CPU cores under load).
    """
    modules = list(layers)
    PROGRESS.num_layers = len(modules)
    for number, module in enumerate(modules, 1):
        if getattr(module, "_compiled_call_impl", None) is None:
            module.register_forward_pre_hook(_entered(number))
            module.register_forward_hook(_backward_of(number))


def _entered(number: int) -> Any:
    def on_forward(_module: nn.Module, _args: Any) -> None:
        PROGRESS.enter("forward", number)

    return on_forward


def _backward_of(number: int) -> Any:
    def on_backward(_gradient: torch.Tensor) -> None:
        PROGRESS.enter("backward", number)

    def on_output(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(on_backward)

    return on_output
