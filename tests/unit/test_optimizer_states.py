"""AdamW's states are there before the first step, and are those that AdamW would have made."""

from __future__ import annotations

import torch
from torch import nn

from tests.unit.stored import a_preset
from tgsbench.training.engines.fsdp2 import _optimizer


def _stepped(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[torch.Tensor]:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_states_made_beforehand_step_as_those_of_adamw():
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Linear(5, 3))
    ours, plain = models
    optimizer = _optimizer(ours, a_preset("llama2_7b_8k", "training.weight_decay=0.1"), torch.device("cpu"))
    before = {name: value.data_ptr() for name, value in optimizer.state[ours.weight].items()}
    group = optimizer.param_groups[0]
    options = {name: group[name] for name in ("lr", "betas", "weight_decay", "fused")}
    lazy = torch.optim.AdamW(plain.parameters(), **options)
    for mine, theirs in zip(_stepped(optimizer, ours), _stepped(lazy, plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    made = lazy.state[plain.weight]
    assert optimizer.state[ours.weight].keys() == made.keys()
    for name, value in optimizer.state[ours.weight].items():
        assert value.data_ptr() == before[name], "no state is made anew"
        assert (value.dtype, value.shape) == (made[name].dtype, made[name].shape)
