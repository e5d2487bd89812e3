"""The fp64 training that `tgsbench verify` holds ranks against."""

from __future__ import annotations

import math

import pytest
import torch
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.launch.verify import NUM_STEPS, small_preset
from tgsbench.training.oracle import Oracle
from tgsbench.training.oracle_model import _turned
from tgsbench.workload import prepare

ROUNDED = 2e-6
"""Of the norm of a gradient's rows, what fp32 rounds: a first step's may be so far from fp64's."""


@pytest.fixture(scope="module")
def small():
    preset = small_preset(presets.resolve("tiny_cpu").preset)
    return replace(preset, training=replace(preset.training, accumulation=1))


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_what_fp32_rounds_in_a_gradient_moves_an_update_no_further(small):
    """Else steps drift apart from fp64's that are each right."""
    data = prepare(small, small.packs_per_step * NUM_STEPS, lambda _: None)
    exact, rounded = Oracle(small, data, None), Oracle(small, data, None)
    gradients = exact.step(0, NUM_STEPS).gradients
    noise = torch.Generator().manual_seed(1)
    near = {}
    for name, gradient in gradients.items():
        off = torch.randn(gradient.shape, generator=noise, dtype=torch.float64)
        near[name] = gradient + off * (ROUNDED * gradient.square().mean(-1, keepdim=True).sqrt())
    norm = math.sqrt(sum(float((g * g).sum()) for g in near.values()))
    rounded._update(0, NUM_STEPS, near, norm)
    changes = {
        name: gap(rounded.weights[name].detach() - start, exact.weights[name].detach() - start)
        for name, start in exact.start.items()
    }
    assert max(changes.values()) < 10 * ROUNDED, changes


def test_angles_of_the_oracle_are_fp32_numbers():
    positions = torch.arange(500, 512)
    ones, zeros = (torch.full((12, 1, 8), value, dtype=torch.float64) for value in (1.0, 0.0))
    cos, _ = _turned(ones, zeros, positions, 1e6)
    frequency = torch.tensor(1e6, dtype=torch.float64) ** (-1 / 8)
    angle = positions.float() * frequency.float()
    assert torch.equal(cos[:, 0, 1], angle.double().cos())
