"""Every family that is trained, as one rank trains it, against fp64 written apart."""

from __future__ import annotations

import pytest
import torch

from tests.unit.family_shapes import TRAINED, small_shape
from tgsbench.training.attention import attention, kernels
from tgsbench.training.attention.documents import documents
from tgsbench.training.model import fused_layers
from tgsbench.training.model.build import build_meta, materialise
from tgsbench.training.oracle_model import PackRow, loss_sum, seeded_weights

LENGTHS = (70, 1, 90, 31)


@pytest.fixture(autouse=True)
def _plain_rope_after():
    yield
    fused_layers.unfuse()


def a_row(vocab: int, masked: bool) -> tuple[PackRow, torch.Tensor | None]:
    """A pack of four documents, and their borders where attention is masked by them."""
    size = sum(LENGTHS)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, vocab, (size,), generator=generator)
    labels = torch.roll(tokens, -1)
    labels[-1] = -100
    place = torch.arange(size)
    causal = place[:, None] >= place[None, :]
    if not masked:
        return PackRow(tokens, labels, place, causal), None
    number = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    same = number[:, None] == number[None, :]
    return PackRow(tokens, labels, place - borders[number], causal & same), borders


def trained(shape, row: PackRow, borders) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of our own attention and transformers' modules, fp32."""
    device = torch.device("cpu")
    ulysses = attention.UlyssesAttention(kernels.make("sdpa", device), None)
    ulysses.documents = None if borders is None else documents(borders, device)
    ulysses.register()
    model = build_meta(shape, len(row.tokens), attention.NAME, 64)
    materialise(model, device, 7)
    if shape.tie_word_embeddings:  # FSDP keeps them tied; without it `to_empty` makes two of them
        model.head.weight = model.model.embed_tokens.weight
    loss = model(row.tokens[None], row.positions[None], row.labels[None])
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize("family", TRAINED)
def test_losses_and_gradients_are_those_of_fp64(family, masked):
    shape = small_shape(TRAINED[family])
    assert shape.family == family
    row, borders = a_row(shape.vocab_size, masked)
    weights = {name: w.requires_grad_() for name, w in seeded_weights(shape, 7)}
    right = loss_sum(shape, weights, row)
    right.backward()
    loss, gradients = trained(shape, row, borders)
    assert loss == pytest.approx(float(right.detach()), rel=1e-6)
    assert gradients.keys() == weights.keys()
    for name, gradient in gradients.items():
        true = weights[name].grad
        assert torch.linalg.norm(gradient.double() - true) <= 3e-6 * torch.linalg.norm(true), name
