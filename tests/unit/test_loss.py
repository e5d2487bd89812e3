"""Chunked linear + cross-entropy equals the whole one, and stays exact over many chunks in bf16."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tgsbench.training.model.loss import IGNORE_INDEX, linear_cross_entropy


def run(dtype: torch.dtype, chunk: int, tokens: int = 96) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, 32, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 32, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (tokens,), generator=generator)
    labels[::3] = IGNORE_INDEX
    loss = linear_cross_entropy(hidden, weight, labels, chunk)
    (loss * 0.5).backward()
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("chunk", [1, 7, 96, 1000])
def test_chunks_change_nothing_in_fp32(chunk):
    for ours, whole in zip(run(torch.float32, chunk), run(torch.float32, 0), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


def test_many_bf16_chunks_lose_no_more_than_one():
    exact = run(torch.float32, 0, 4096)[2]
    one = (run(torch.bfloat16, 4096, 4096)[2].float() - exact).norm() / exact.norm()
    many = (run(torch.bfloat16, 16, 4096)[2].float() - exact).norm() / exact.norm()
    assert many < 1.2 * one


def test_without_any_label_loss_and_gradients_are_zero():
    hidden = torch.randn(8, 4, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((8,), IGNORE_INDEX), 4)
    loss.backward()
    assert loss == 0
    assert hidden.grad.abs().sum() == 0 == weight.grad.abs().sum()


def test_no_gradient_is_made_when_none_is_wanted():
    with torch.no_grad():
        loss = linear_cross_entropy(torch.randn(8, 4), torch.randn(6, 4), torch.zeros(8, dtype=torch.long), 4)
    assert loss > 0


class Made(TorchDispatchMode):
    """Memory of results of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.places = shape, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        assert func is not torch.ops.aten.logsumexp.default, "it makes logits of its own inside"
        if isinstance(result, torch.Tensor) and result.shape == self.shape:
            self.places.add(result.data_ptr())
        return result


def test_a_chunk_has_one_tensor_of_logits():
    hidden = torch.randn(16, 4, requires_grad=True)
    weight = torch.randn(50, 4, requires_grad=True)
    with Made((16, 50)) as made:
        linear_cross_entropy(hidden, weight, torch.randint(0, 50, (16,)), 16)
    assert len(made.places) == 1
