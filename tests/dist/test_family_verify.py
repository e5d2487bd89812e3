"""Every family that is trained, verified on two ranks as `tgsbench verify` does, and with its own faults."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.dist.evidence import break_builds
from tests.unit.family_shapes import TRAINED, read
from tests.unit.stored import a_preset
from tgsbench.launch import verify
from tgsbench.launch.evidence_runs import EvidenceRun, WantedRun, gather
from tgsbench.launch.watch import StopSignals
from tgsbench.metrics import verification
from tgsbench.models.registry import families
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import Check

pytestmark = [pytest.mark.dist, pytest.mark.timeout(2700)]  # 51 runs take 10 minutes of one core
NUM_STEPS = 3
FAULTS = {
    "experts_shifted_by_one": "mixtral",
    "router_of_one_rank_differs": "qwen3_moe",
    "window_off_by_one": "mistral",
    "sinks_dropped": "gpt_oss",
    "head_norms_skipped": "qwen3",
    "keys_and_values_of_a_latent_swapped": "deepseek_v3",
    "shared_expert_of_another_token": "deepseek_v3",
    "positions_in_every_layer": "smollm3",
    "halves_of_a_head_turned": "glm",
}
"""Fault -> a family that can have it."""


def family_preset(family: str) -> Preset:
    """sp 2, documents masked, two micro-steps: what `verify` makes of a public configuration."""
    preset = a_preset(
        "llama3_8b_8k",
        "hardware.num_gpus=2", "parallel.sp=2", "training.accumulation=2", "workload.document_mask=true",
        "training.checkpointing=selective",
    )  # fmt: skip
    small = verify.small_preset(replace(preset, model=read(TRAINED[family]).shape))
    first = replace(small.measure, steps=NUM_STEPS, warmup=verify.NUM_STEPS - NUM_STEPS)
    return replace(small, measure=first)


PRESETS = {family: family_preset(family) for family in TRAINED}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, EvidenceRun]:
    sound: dict[str, WantedRun] = {}
    for family, preset in PRESETS.items():
        sound[family] = WantedRun(preset, "evidence")
        sound[f"{family}-oracle"] = WantedRun(preset, "oracle", follows=family)
    faulty = {f"fault-{fault}": WantedRun(PRESETS[family], "evidence") for fault, family in FAULTS.items()}
    folder = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch, StopSignals() as stop:
        break_builds(patch)
        return gather(folder, [sound, faulty], stop, lambda _: None)


def oracle_checks(family: str, run: EvidenceRun, truth: EvidenceRun) -> list[Check]:
    assert not (run.problem or truth.problem), run.problem or truth.problem
    return verify._oracle(PRESETS[family], run, truth)


def test_every_family_that_ranks_train_is_here():
    shipped = [family for family in families() if type(family).__module__.startswith("tgsbench.")]
    assert set(TRAINED) == {family.name for family in shipped if not family.untrained}


@pytest.mark.parametrize("family", TRAINED)
def test_a_sound_build_passes_every_check(seen, family):
    preset, run = PRESETS[family], seen[family]
    checks = [
        *oracle_checks(family, run, seen[f"{family}-oracle"]),
        verification.labels(preset, run.ranks),
        verification.tokens(preset, run.ranks),
        verification.all_to_alls(preset, run.ranks),
        verification.mask(preset, run.ranks),
        verification.causality(preset, run.ranks),
    ]
    assert {check.status for check in checks} == {"passed"}, checks
    layers = preset.model.num_layers - (preset.model.experts.dense_first if preset.model.experts else 0)
    tokens = NUM_STEPS * preset.tokens_per_step
    decisions = seen[f"{family}-oracle"].ranks[0].routing.decisions
    assert decisions == (layers * tokens if preset.model.experts else 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_only_such_a_model_can_have_is_caught_by_the_oracle(seen, fault):
    family = FAULTS[fault]
    oracle, _ = oracle_checks(family, seen[f"fault-{fault}"], seen[f"{family}-oracle"])
    assert oracle.status == "failed"
    assert oracle.worst
