"""Families with windows, sinks, experts and latents train the same at sp 1, 2 and 4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.dist.family_worker import FAMILIES, ROUTER, WINDOWED, family_preset, ring_presets, shared_out
from tests.dist.launch import torchrun
from tgsbench.metrics.integrity import (
    expected_all_to_alls,
    expected_copy_sums,
    expected_expert_exchanges,
    expected_gathers,
    expected_ring_sends,
    expected_scatters,
)

pytestmark = pytest.mark.dist
WORKER = Path(__file__).with_name("family_worker.py")
SP = (2, 4)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict]:
    folder = tmp_path_factory.mktemp("families")
    for world in (1, *SP):
        torchrun(world, WORKER, str(folder / f"{world}.pt"))
    return {world: torch.load(folder / f"{world}.pt", weights_only=True) for world in (1, *SP)}


def worst(one: dict, many: dict) -> float:
    right, ours = one["grads"], many["grads"]
    assert ours.keys() == right.keys()
    return max(float((ours[name] - grad).norm() / grad.norm()) for name, grad in right.items())


@pytest.mark.parametrize("sp", SP)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_agree_with_one_rank(outcomes, family, sp):
    one, many = outcomes[1][family], outcomes[sp][family]
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-6, atol=1e-6)
    assert worst(one, many) < 2e-6


@pytest.mark.parametrize("sp", SP)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_to_alls_are_those_of_the_shapes(outcomes, family, sp):
    assert outcomes[sp][family]["sent"]["ulysses"] == expected_all_to_alls(family_preset(family, sp))


def check_shards(sent, preset):
    """What FSDP gathers, scatters and sums, against the parameters of the shape, padding included."""
    assert sent["gather"] == expected_gathers(preset)
    assert sent["scatter"] == expected_scatters(preset)
    assert sent.get("copies", (0, 0)) == expected_copy_sums(preset)


@pytest.mark.parametrize("sp", SP)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_gradients_travel_as_often_as_the_shapes_say(outcomes, family, sp):
    check_shards(outcomes[sp][family]["sent"], family_preset(family, sp))


@pytest.mark.parametrize("sp", SP)
@pytest.mark.parametrize("family", WINDOWED)
def test_layers_with_windows_and_sinks_round_a_ring_train_as_on_one_rank(outcomes, family, sp):
    name = f"{family}, ring"
    torch.testing.assert_close(outcomes[sp][name]["loss"], outcomes[1][name]["loss"], rtol=1e-6, atol=1e-6)
    assert worst(outcomes[1][name], outcomes[sp][name]) < 2e-6


@pytest.mark.parametrize("sp", SP)
@pytest.mark.parametrize("family", WINDOWED)
def test_keys_go_to_the_members_that_see_them_and_no_others(outcomes, family, sp):
    name = f"{family}, ring"
    sends, num_bytes = outcomes[sp][name]["sent"]["ring"]
    assert sends > 0
    assert (sends, num_bytes) == expected_ring_sends(ring_presets(sp)[name])


def test_a_router_that_differs_between_ranks_is_seen(outcomes):
    assert worst(outcomes[1]["qwen3_moe"], outcomes[2][ROUTER]) > 1e-3


@pytest.mark.parametrize(("sp", "run"), [(sp, run) for sp in SP for run in shared_out(sp)])
def test_experts_on_several_ranks_train_as_on_one(outcomes, sp, run):
    family, ep, mode = run
    one, many = outcomes[1][family], outcomes[sp][f"{family}, ep {ep}, {mode}"]
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-6, atol=1e-6)
    assert worst(one, many) < 2e-6
    torch.testing.assert_close(many["norm"], one["norm"], rtol=2e-6, atol=0)


@pytest.mark.parametrize(("sp", "run"), [(sp, run) for sp in SP for run in shared_out(sp)])
def test_tokens_go_to_their_experts_in_the_calls_and_bytes_of_the_shapes(outcomes, sp, run):
    family, ep, mode = run
    preset = family_preset(family, sp, ep, mode)
    sent = outcomes[sp][f"{family}, ep {ep}, {mode}"]["sent"]
    assert sent["experts"] == tuple(sp * count for count in expected_expert_exchanges(preset))
    assert sent.get("ulysses", (0, 0)) == expected_all_to_alls(preset)
    check_shards(sent, preset)
