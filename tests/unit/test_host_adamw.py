"""AdamW with states on the host takes the steps of torch's own, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tgsbench.training import host_adamw
from tgsbench.training.clipping import clip_gradients
from tgsbench.training.host_adamw import HostAdamW

CPU = torch.device("cpu")
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
SHAPES = ((48, 32), (7,), (1000,), (0, 4))


def _models() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    drawn = torch.Generator().manual_seed(3)
    weights = [torch.randn(shape, generator=drawn) for shape in SHAPES]
    return [nn.Parameter(w.clone()) for w in weights], [nn.Parameter(w.clone()) for w in weights]


@pytest.mark.parametrize("all_away", [False, True])
@pytest.mark.parametrize("piece", [64, 2**26])
def test_its_steps_are_those_of_torchs_own_optimizer(monkeypatch, all_away, piece):
    monkeypatch.setattr(host_adamw, "PIECE_VALUES", piece)
    own, others = _models()
    away = HostAdamW([{"params": own}], CPU, all_away, **OPTIONS)
    plain = torch.optim.AdamW(others, fused=True, **OPTIONS)
    drawn = torch.Generator().manual_seed(5)
    for _ in range(4):
        for parameter, other in zip(own, others, strict=True):
            other.grad = torch.randn(other.shape, generator=drawn)
            parameter.grad = other.grad.clone()
        others[1].grad = own[1].grad = None  # no token reached it
        clipped = clip_gradients(others, 0.5)
        norm = away.clip(0.5, None) if all_away else clip_gradients(own, 0.5)
        assert torch.equal(norm, clipped)
        plain.step()
        away.step()
    for parameter, other in zip(own, others, strict=True):
        assert torch.equal(parameter, other)
    for parameter, other in zip((own[0], own[2]), (others[0], others[2]), strict=True):
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(away.state[parameter][moment], plain.state[other][moment])
