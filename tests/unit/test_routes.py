"""Where a router's scores tie, the fp64 oracle takes the trained choice; everywhere else its own."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from tests.unit.family_shapes import small
from tgsbench.metrics import verification
from tgsbench.schema.verify import Evidence, Routing
from tgsbench.training.model.experts import EXPERT_LOAD
from tgsbench.training.routes import RouteRecorder, Routes, TieBreaker, from_tie

SCORES = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 2.0 - 1e-7, 0.0]], dtype=torch.float64)
OWN = torch.tensor([[0, 1], [0, 1]])


def settled(*trained: list[int]) -> tuple[list[list[int]], TieBreaker]:
    ties = TieBreaker()
    ties.begin(torch.tensor([trained]))
    return ties.settle(SCORES, OWN).tolist(), ties


def test_the_same_experts_in_another_order_are_no_difference():
    chosen, ties = settled([1, 0], [0, 1])
    assert (chosen, ties.num_decisions, ties.num_taken, ties.farthest) == (OWN.tolist(), 2, 0, 0.0)


def test_a_choice_within_rounding_of_a_tie_is_taken_over():
    chosen, ties = settled([0, 1], [2, 0])
    assert chosen == [[0, 1], [2, 0]]
    assert ties.num_taken == 1
    assert 0 < ties.farthest < 1e-6


def test_a_choice_that_no_tie_explains_is_not_followed_and_fails_the_check_by_name():
    chosen, ties = settled([0, 2], [0, 1])
    assert chosen == OWN.tolist()
    assert ties.num_taken == 0
    assert ties.farthest == pytest.approx(float(1 / SCORES.std()))
    right = Evidence(rank=0, loss_sums=[1.0], grad_norms=[1.0], num_labels=[1])
    truth = replace(right, routing=Routing(decisions=2, farthest=ties.farthest))
    check = verification.oracle(small("mixtral_8x7b"), {}, truth, [right])
    assert (check.status, check.worst) == ("failed", "distance of a routing from its tie")


def test_without_a_run_to_follow_every_choice_is_fp64_s_own():
    ties = TieBreaker()
    assert ties.settle(SCORES, OWN) is OWN
    assert ties.num_decisions == 0


def test_groups_tie_as_well_as_the_experts_inside_them():
    scores = torch.tensor([[4.0, 3.0, 3.5, 3.5 - 1e-7, 0.0, 0.0]], dtype=torch.float64)

    def gap(*chosen: int) -> float:
        return float(from_tie(scores, torch.tensor([chosen]), groups=3, used_groups=1))

    assert gap(0, 1) < 0
    assert gap(2, 3) == pytest.approx(1e-7, rel=1e-6)  # its group's two best add up to 1e-7 less
    assert gap(4, 5) == pytest.approx(7.0)
    assert gap(0, 2) > 1  # of two groups, where one is used


@pytest.mark.parametrize(("ring", "ranks"), [(1, [2, 2, 2, 2, 3, 3, 3, 3]), (2, [2, 2, 3, 3, 3, 3, 2, 2])])
def test_what_ranks_wrote_down_is_put_together_by_pack(tmp_path, ring, ranks):
    preset = small("mixtral_8x7b", sp=2)
    preset = replace(
        preset,
        parallel=replace(preset.parallel, ring=ring),
        hardware=replace(preset.hardware, num_gpus=4),
        workload=replace(preset.workload, seq_len=8),
        training=replace(preset.training, micro_batch=2, accumulation=2),
        measure=replace(preset.measure, steps=2),
    )
    (tmp_path / "evidence").mkdir()
    for rank in range(4):
        recorder = RouteRecorder()
        for _step in range(2):
            for micro in range(2):
                for layer in range(3):
                    where = 1000 * micro + 100 * layer + 10 * rank
                    rows = torch.tensor([[where + row] * 2 for row in (0, 1) for _ in range(4)])
                    EXPERT_LOAD.add(rows, 2000)
        recorder.store(tmp_path / "evidence", rank, preset)
    EXPERT_LOAD.forget()
    routes = Routes(tmp_path, preset)
    assert preset.packs_per_step == 8
    pack = routes.of_pack(8 + 4 + 2 + 1)  # second step, second micro-step, second group, second row
    assert pack.shape == (3, 8, 2)
    assert pack[2].tolist() == [[1000 + 200 + 10 * rank + 1] * 2 for rank in ranks]
