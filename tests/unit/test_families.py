"""Every family that is trained, as one rank trains it, against fp64 written apart."""

from __future__ import annotations

import pytest
import torch
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.ernie4_5 import modeling_ernie4_5
from transformers.models.glm import modeling_glm
from transformers.models.mixtral import modeling_mixtral

from tests.unit.family_shapes import TRAINED, small_shape
from tgsbench.models.smollm3 import SmolLm3
from tgsbench.systems import score_blocks
from tgsbench.training.attention import attention, kernels, windowed
from tgsbench.training.attention.documents import documents
from tgsbench.training.clipping import clip_gradients
from tgsbench.training.model import cpu_bf16, experts, fused_layers
from tgsbench.training.model.build import build_meta, materialise
from tgsbench.training.oracle_model import PackRow, loss_sum, seeded_weights

LENGTHS = (70, 1, 90, 31)


@pytest.fixture(autouse=True)
def _as_in_verify(monkeypatch):
    """Products in fp64: in fp32 GLM-4.5's bias of keys, whose gradient nearly cancels, is off by 3.3e-6."""
    monkeypatch.setattr(cpu_bf16, "_exact", True)
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


# Faults that only these models can have: the loss or a gradient moves away from fp64's


def moved(family: str) -> bool:
    """Does what is trained differ from fp64 by more than the bound of the test above?"""
    shape = small_shape(TRAINED[family])
    row, borders = a_row(shape.vocab_size, masked=False)
    weights = {name: w.requires_grad_() for name, w in seeded_weights(shape, 7)}
    right = loss_sum(shape, weights, row)
    right.backward()
    loss, gradients = trained(shape, row, borders)
    if any(gradient is None for gradient in gradients.values()):
        return True
    true = {name: w.grad for name, w in weights.items()}
    norm = torch.linalg.norm
    gaps = [norm(gradient.double() - true[name]) / norm(true[name]) for name, gradient in gradients.items()]
    return abs(loss / float(right.detach()) - 1) > 1e-6 or max(gaps) > 3e-6


def test_experts_shifted_by_one_are_seen(monkeypatch):
    route = modeling_mixtral.MixtralTopKRouter.forward

    def shifted(self, hidden_states):
        logits, scores, indices = route(self, hidden_states)
        return logits, scores, (indices + 1) % self.num_experts

    assert not moved("mixtral")
    monkeypatch.setattr(modeling_mixtral.MixtralTopKRouter, "forward", shifted)
    assert moved("mixtral")


@pytest.mark.parametrize("by", [-1, 1])
def test_a_window_that_is_off_by_one_is_seen(monkeypatch, by):
    sees = windowed._sees
    monkeypatch.setattr(windowed, "_sees", lambda window, *rest: sees(window + by if window else 0, *rest))
    assert moved("mistral")


def test_positions_in_a_layer_that_has_none_are_seen(monkeypatch):
    config = SmolLm3.config
    turns = {"no_rope_layers": [1] * 4}
    monkeypatch.setattr(SmolLm3, "config", lambda self, shape, length: config(self, shape, length) | turns)
    assert moved("smollm3")


@pytest.mark.parametrize("module", [modeling_glm, modeling_ernie4_5])
def test_halves_of_a_head_turned_where_neighbours_must_be_are_seen(monkeypatch, module):
    monkeypatch.setattr(module, "apply_rotary_pos_emb", fused_layers.fused_rope)
    assert moved({modeling_glm: "glm", modeling_ernie4_5: "ernie4_5"}[module])


@pytest.mark.parametrize("family", ["mistral", "gpt_oss"])
def test_blocks_of_few_queries_are_the_same_attention(monkeypatch, family):
    monkeypatch.setattr(score_blocks, "MOST_SCORE_BYTES", 1)
    assert not moved(family)


def test_scores_of_one_block_of_queries_are_there_at_a_time(monkeypatch):
    monkeypatch.setattr(score_blocks, "MOST_SCORE_BYTES", 1)
    saved = []
    q = torch.randn(1, 64, 2, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        windowed.blockwise(q, q, q, 0.3, windowed.Own(sinks=torch.zeros(2)))
    assert max(saved) == q.numel()


def test_a_sink_that_is_left_out_is_seen(monkeypatch):
    run = attention.UlyssesAttention._run
    monkeypatch.setattr(
        attention.UlyssesAttention,
        "_run",
        lambda self, q, k, v, scale, own: run(self, q, k, v, scale, own._replace(sinks=None)),
    )
    assert moved("gpt_oss")


def test_keys_and_values_of_a_latent_in_each_other_s_place_are_seen(monkeypatch):
    expand = modeling_deepseek_v3.DeepseekV3Attention.expand_kv

    def swapped(self, kv_nope, k_rot):
        keys, values = expand(self, kv_nope, k_rot)
        width = self.qk_nope_head_dim
        return torch.cat([values, keys[..., width:]], -1), keys[..., :width]

    monkeypatch.setattr(modeling_deepseek_v3.DeepseekV3Attention, "expand_kv", swapped)
    assert moved("deepseek_v3")


# Load of the experts


def test_tokens_dealt_in_turn_load_every_expert_alike():
    chosen = experts.dealt_in_turn(100, 3, 8, torch.device("cpu"))
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    counts = torch.bincount(chosen.flatten(), minlength=8)
    assert counts.max() - counts.min() <= 1


def test_the_load_is_that_of_the_busiest_expert_over_the_mean():
    load = experts.ExpertLoad()
    assert load.take() is None
    load.add(torch.tensor([[0, 1], [0, 2], [0, 3]]), 4)
    assert load.take().busiest == 2.0  # 3 of 6 choices where each has 1.5
    assert load.take() is None


def test_uniform_routing_is_what_is_trained(monkeypatch):
    monkeypatch.setattr(experts.EXPERT_LOAD, "is_uniform", True)
    experts.EXPERT_LOAD.take()
    shape = small_shape("mixtral_8x7b")
    row, _ = a_row(shape.vocab_size, masked=False)
    trained(shape, row, None)
    assert experts.EXPERT_LOAD.take().busiest == pytest.approx(1.0)
    monkeypatch.setattr(experts.EXPERT_LOAD, "is_uniform", False)
    trained(shape, row, None)
    assert experts.EXPERT_LOAD.take().busiest > 1.1


# The norm that clips


def test_a_gradient_norm_of_millions_of_values_is_exact_to_fp32():
    """torch's own, on a CPU, is 7e-5 too low here."""
    weight = torch.nn.Parameter(torch.zeros(3_670_016))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    right = float(weight.grad.double().norm())
    norm = clip_gradients([weight], 0.1)
    assert float(norm) == pytest.approx(right, rel=2e-7)
    assert float(weight.grad.double().norm()) == pytest.approx(0.1, rel=1e-5)
