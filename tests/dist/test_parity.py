"""sp 1, 2 and 4 train the same thing: losses, gradients and all-to-alls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.dist.cases import CASES, KINDS, WHOLE, case_preset
from tests.dist.launch import torchrun
from tgsbench.metrics.integrity import (
    expected_all_to_alls,
    expected_copy_sums,
    expected_gathers,
    expected_kv_hops,
    expected_ring_sends,
    expected_scatters,
)

pytestmark = pytest.mark.dist
WORKER = Path(__file__).with_name("parity_worker.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict]:
    folder = tmp_path_factory.mktemp("parity")
    for world in (1, 2, 4):
        torchrun(world, WORKER, str(folder / f"{world}.pt"))
    return {world: torch.load(folder / f"{world}.pt", weights_only=True) for world in (1, 2, 4)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sp", [2, 4])
def test_loss_and_every_gradient_agree_with_one_rank(outcomes, case, sp):
    one, many = outcomes[1][case], outcomes[sp][case]
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-6, atol=1e-6)
    assert many["grads"].keys() == one["grads"].keys()
    for name, grad in one["grads"].items():
        error = (many["grads"][name] - grad).norm() / grad.norm()
        assert error < bound_of(case), f"{name}: relative error {error:.1e}"


def bound_of(case: str) -> float:
    """Of a gradient's relative error; a sum in another order tips the rounding to FP8 of one value in 10^5."""
    return 1e-3 if "fp8" in case else 2e-6


def unrounded(case: str) -> str:
    """The same with plain products."""
    kind, _, what = case.rpartition("-")
    if what == "fp8" and kind in KINDS:
        return f"{kind}-gqa-full"
    return "unrounded-modules" if case == "fp8-modules" else "unrounded"


@pytest.mark.parametrize("case", [case for case in CASES if "fp8" in case])
def test_fp8_is_at_work_and_near_to_the_plain_training(outcomes, case):
    plain, fp8 = outcomes[2][unrounded(case)], outcomes[2][case]
    torch.testing.assert_close(fp8["loss"], plain["loss"], rtol=5e-3, atol=0)
    errors = {name: float((fp8["grads"][name] - g).norm() / g.norm()) for name, g in plain["grads"].items()}
    matrices = [error for name, error in errors.items() if "_proj" in name]
    assert all(1e-3 < error < 0.25 for error in matrices), errors


EXPECTED = {
    "ulysses": expected_all_to_alls,
    "kv_hops": expected_kv_hops,
    "ring": expected_ring_sends,
    "gather": expected_gathers,
    "scatter": expected_scatters,
    "copies": expected_copy_sums,
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("case", CASES)
def test_calls_and_bytes_follow_from_the_shapes(outcomes, case, kind):
    for world in (1, 2, 4):
        sent = outcomes[world][case]["sent"].get(kind, (0, 0))
        assert sent == EXPECTED[kind](case_preset(case, world)), world


@pytest.mark.parametrize("case", CASES)
def test_hops_and_rings_are_where_they_are_asked_for(outcomes, case):
    for world in (1, 2, 4):
        sent = outcomes[world][case]["sent"]
        assert ("kv_hops" in sent) == (world == 4 and "kv_hops" in case)
        assert ("ring" in sent) == (case_preset(case, world).ring > 1)


@pytest.mark.parametrize("heads", ["mha", "gqa", "kv_below_sp"])
@pytest.mark.parametrize("mask", ["causal", "documents"])
def test_checkpointing_changes_no_bit_of_the_loss(outcomes, heads, mask):
    losses = {mode: outcomes[2][f"{heads}-{mask}-{mode}"]["loss"] for mode in ("none", "selective", "full")}
    assert losses["selective"] == losses["none"] == losses["full"]


def test_a_document_mask_changes_the_loss(outcomes):
    assert outcomes[1]["mha-causal-none"]["loss"] != outcomes[1]["mha-documents-none"]["loss"]


def test_chunked_loss_equals_whole_logits(outcomes):
    whole, chunked = outcomes[1]["tied-whole_logits"], outcomes[1]["tied-chunked"]
    torch.testing.assert_close(chunked["loss"], whole["loss"])
    for name, grad in whole["grads"].items():
        torch.testing.assert_close(chunked["grads"][name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("offload", "compile", "tiled"))])
@pytest.mark.parametrize("world", [1, 2])
def test_offload_compile_and_tiling_train_what_the_plain_path_trains(outcomes, case, world):
    plain, other = outcomes[world]["plain"], outcomes[world][case]
    torch.testing.assert_close(other["loss"], plain["loss"], rtol=1e-6, atol=1e-6)
    for name, grad in plain["grads"].items():
        error = (other["grads"][name] - grad).norm() / grad.norm()
        assert error < 2e-6, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_chunks_of_the_sequence_train_what_the_whole_one_does(outcomes, case, world):
    whole, chunks = outcomes[1][WHOLE[case]], outcomes[world][case]
    torch.testing.assert_close(chunks["loss"], whole["loss"], rtol=1e-6, atol=1e-6)
    for name, grad in whole["grads"].items():
        error = (chunks["grads"][name] - grad).norm() / grad.norm()
        assert error < bound_of(case), f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("kept", ["optimizer", "all"])
@pytest.mark.parametrize("world", [1, 2])
def test_states_on_the_host_step_to_the_same_bits(outcomes, kept, world):
    here, away = outcomes[world]["offload-full"], outcomes[world][f"offload-{kept}"]
    assert torch.equal(away["norm"], here["norm"])
    for name, weight in here["weights"].items():
        assert torch.equal(away["weights"][name], weight), name
