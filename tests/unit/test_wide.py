"""bf16 products in fp32 where a CPU has no bf16 instructions: which tensors, and that only speed changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from tgsbench.presets import resolve
from tgsbench.training.attention import kernels
from tgsbench.training.attention.blocks import CpuBlocks, Saved
from tgsbench.training.attention.documents import documents
from tgsbench.training.model import cpu_bf16
from tgsbench.training.model.build import build_meta
from tgsbench.training.model.loss import linear_cross_entropy


@pytest.fixture(params=[False, True], ids=["fallback", "instructions"])
def cpu(request, monkeypatch) -> bool:
    """A CPU without and one with bf16 instructions."""
    monkeypatch.setattr(cpu_bf16, "_has_bf16_products", lambda: request.param)
    return request.param


@pytest.fixture
def old_cpu(monkeypatch) -> None:
    monkeypatch.setattr(cpu_bf16, "_has_bf16_products", lambda: False)


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16().requires_grad_()


def test_only_bf16_on_a_cpu_without_bf16_instructions_is_widened(cpu):
    assert cpu_bf16.lacks_bf16(torch.ones(2, dtype=torch.bfloat16)) is not cpu
    assert not cpu_bf16.lacks_bf16(torch.ones(2))
    assert not cpu_bf16.lacks_bf16(torch.ones(2, dtype=torch.bfloat16, device="meta"))


def test_fake_tensors_that_stand_for_a_gpu_keep_their_operators(old_cpu):
    with FakeTensorMode():
        assert not cpu_bf16.lacks_bf16(torch.ones(2, dtype=torch.bfloat16))


def test_a_linear_layer_is_the_fp32_product_rounded_once_forward_and_backward(old_cpu):
    layer = nn.Linear(48, 80, bias=False).bfloat16()
    layer.__class__ = cpu_bf16.Fp32Linear
    x, grad = bf16(2, 9, 48), torch.randn(2, 9, 80).bfloat16()
    exact_x = x.detach().float().requires_grad_()
    exact_weight = layer.weight.detach().float().requires_grad_()
    exact = functional.linear(exact_x, exact_weight)
    out = layer(x)
    assert torch.equal(out, exact.bfloat16())
    found = torch.autograd.grad(out, (x, layer.weight), grad)
    wanted = torch.autograd.grad(exact, (exact_x, exact_weight), grad.float())
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(found, wanted, strict=True))


def test_only_bf16_tensors_are_kept_for_the_backward(old_cpu):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        cpu_bf16.linear(bf16(9, 48), bf16(80, 48))
    assert [t.dtype for t in saved] == [torch.bfloat16] * 2


@pytest.fixture
def exact(monkeypatch) -> None:
    monkeypatch.setattr(cpu_bf16, "_exact", False)
    cpu_bf16.multiply_exactly()


@pytest.mark.parametrize("has_bias", [False, True])
def test_verify_multiplies_fp32_in_fp64_and_rounds_once(exact, has_bias):
    layer = nn.Linear(300, 80, bias=has_bias)
    layer.__class__ = cpu_bf16.Fp32Linear
    x, grad = torch.randn(2, 9, 300, requires_grad=True), torch.randn(2, 9, 80)
    wide = x.detach().double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    truth = functional.linear(wide, weight)
    out = layer(x)
    bias = layer.bias if has_bias else 0
    assert torch.equal(out, truth.float() + bias)
    found = torch.autograd.grad(out, (x, layer.weight), grad)
    wanted = torch.autograd.grad(truth, (wide, weight), grad.double())
    assert all(torch.equal(a, b.float()) for a, b in zip(found, wanted, strict=True))
    a, b, total = torch.randn(9, 300), torch.randn(300, 5), torch.randn(9, 5)
    assert torch.equal(cpu_bf16.product(a, b), (a.double() @ b.double()).float())
    assert torch.equal(cpu_bf16.add_product(total.clone(), a, b), (total + a.double() @ b.double()).float())


def test_attention_of_verify_is_that_of_fp64_whole_and_in_blocks(exact):
    q, k, v = (torch.randn(1, 12, heads, 16) for heads in (4, 2, 2))
    truth = kernels.sdpa(q.double(), k.double(), v.double(), 0.25, None).float()
    assert torch.equal(kernels.sdpa(q, k, v, 0.25, None), truth)
    docs = documents(torch.tensor([0, 12], dtype=torch.int32), torch.device("cpu"))
    out, lse = CpuBlocks().forward(q[0], k[0], v[0], 0.25, docs)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(out, truth[0], rtol=0, atol=1e-7)


def test_bf16_is_multiplied_as_ever_in_verify(exact, old_cpu):
    assert cpu_bf16.wider(torch.ones(2, dtype=torch.bfloat16)) == torch.float32
    assert cpu_bf16.wider(torch.ones(2)) == torch.float64
    assert cpu_bf16.wider(torch.ones(2, device="meta")) is None


def test_attention_returns_the_fp32_kernels_result_in_bf16(old_cpu):
    q, k, v = bf16(1, 12, 4, 16), bf16(1, 12, 2, 16), bf16(1, 12, 2, 16)
    exact = kernels.sdpa(q.float(), k.float(), v.float(), 0.25, None)
    assert torch.equal(kernels.sdpa(q, k, v, 0.25, None), exact.bfloat16())


@pytest.mark.parametrize("left", [-1, 3])
def test_blocks_of_attention_run_in_bf16_forward_and_backward(cpu, left):
    q, k, v, grad = (torch.randn(12, heads, 16).bfloat16() for heads in (4, 2, 2, 4))
    docs = documents(torch.tensor([0, 5, 12], dtype=torch.int32), torch.device("cpu"))

    def through(q, k, v, grad):
        out, lse = CpuBlocks().forward(q, k, v, 0.25, docs, left)
        return out, *CpuBlocks().backward(grad, Saved(q, k, v, out, lse), 0.25, docs, left)

    exact = through(*(x.float() for x in (q, k, v, grad)))
    for found, wanted in zip(through(q, k, v, grad), exact, strict=True):
        assert (found.float() - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.parametrize("chunk_tokens", [0, 5])
def test_the_loss_and_its_gradients_keep_their_dtypes_and_agree_with_fp32(old_cpu, chunk_tokens):
    hidden, weight, labels = bf16(13, 32), bf16(64, 32), torch.randint(0, 64, (13,))
    wides = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    loss = linear_cross_entropy(hidden, weight, labels, chunk_tokens)
    exact = linear_cross_entropy(*wides, labels, chunk_tokens)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=4e-3, atol=0)
    grads = torch.autograd.grad(loss, (hidden, weight))
    for grad, wanted in zip(grads, torch.autograd.grad(exact, wides), strict=True):
        assert grad.dtype == torch.bfloat16
        assert (grad.float() - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_models_linear_layers_are_wide_unless_the_compiler_owns_them(compiled):
    preset = resolve("tiny_cpu", [f"engine.compile={str(compiled).lower()}"]).preset
    model = build_meta(preset.model, 64, "sdpa", 0, preset.engine)
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
    assert kinds == ({nn.Linear} if compiled else {cpu_bf16.Fp32Linear})
