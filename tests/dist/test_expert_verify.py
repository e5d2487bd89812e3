"""Experts shared out over ranks, verified on two ranks as `tgsbench verify` does, and with their own faults."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.dist.evidence import break_builds, checks_of_one
from tests.dist.family_worker import MIXTURES
from tests.dist.test_family_verify import NUM_STEPS
from tests.dist.test_family_verify import family_preset as whole_preset
from tgsbench.launch import verify
from tgsbench.launch.evidence_runs import EvidenceRun, WantedRun, gather
from tgsbench.launch.watch import StopSignals
from tgsbench.schema.preset import Parallel, Preset
from tgsbench.schema.verify import Check

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1500)]
FAULTS = {
    "router_of_one_rank_differs": {"oracle", "parity"},
    "experts_of_a_rank_shifted_by_one": {"oracle", "parity"},
    "dispatch_drops_tokens": {"oracle", "parity", "experts"},
    "results_come_back_in_another_order": {"oracle", "parity", "mask", "causality"},
    "gradients_of_experts_summed_over_their_shards_alone": {"oracle", "parity"},
}
"""Fault of Qwen3-MoE -> the checks that must fail."""


def shared_out(family: str) -> Preset:
    """Two ranks with sequences of their own and half of the experts each, documents masked, two micro-steps."""
    return replace(whole_preset(family), parallel=Parallel(sp=1, ep=2))


PRESETS = {family: shared_out(family) for family in MIXTURES}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, EvidenceRun]:
    sound: dict[str, WantedRun] = {}
    for family, preset in PRESETS.items():
        sound[family] = WantedRun(preset, "evidence")
        sound[f"{family}-alone"] = WantedRun(verify.one_rank(preset), "steps")
        sound[f"{family}-oracle"] = WantedRun(preset, "oracle", follows=family)
    faulty = {f"fault-{fault}": WantedRun(PRESETS["qwen3_moe"], "evidence") for fault in FAULTS}
    folder = tmp_path_factory.mktemp("experts")
    with pytest.MonkeyPatch.context() as patch, StopSignals() as stop:
        break_builds(patch)
        return gather(folder, [sound, faulty], stop, lambda _: None)


def checks_of(family: str, run: EvidenceRun, seen: dict[str, EvidenceRun]) -> list[Check]:
    preset, alone, truth = PRESETS[family], seen[f"{family}-alone"], seen[f"{family}-oracle"]
    assert not (run.problem or alone.problem or truth.problem), (run.problem, alone.problem, truth.problem)
    return [
        *verify._oracle(preset, run, truth),
        *verify._parity(preset, run, alone),
        *checks_of_one(preset, run),
    ]


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_on_two_ranks_pass_every_check(seen, family):
    checks = checks_of(family, seen[family], seen)
    assert {check.status for check in checks} == {"passed"}, checks
    assert all(calls for rank in seen[family].ranks for calls, _ in rank.expert_exchanges)
    assert len(seen[family].ranks[0].expert_exchanges) == NUM_STEPS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_experts_over_ranks_is_caught_by_name(seen, fault):
    checks = checks_of("qwen3_moe", seen[f"fault-{fault}"], seen)
    failed = {check.name for check in checks if check.status == "failed"}
    assert failed - {"update"} == FAULTS[fault], checks
