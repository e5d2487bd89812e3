"""The norm of gradients keeps fp32's digits however long a tensor is."""

from __future__ import annotations

import torch

from tgsbench.training.clipping import gradient_norm


def test_a_long_gradient_loses_no_digits():
    generator = torch.Generator().manual_seed(0)
    long, short = torch.randn(3_000_000, generator=generator), torch.randn(7, generator=generator)
    right = torch.cat([long, short]).double().norm()
    assert abs(gradient_norm([long, short]).double() / right - 1) < 3e-7
