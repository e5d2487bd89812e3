"""Faults injected into ordinary runs: each is caught by the name of its check, or by what says that it cannot be.

A run knows its own data, clock, traffic and weights; what a model computes it does not know: that takes the
fp64 oracle of `tgsbench verify`, whose faults are in test_verify_faults.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dist.evidence import break_builds
from tgsbench import presets
from tgsbench.launch.evidence_runs import WantedRun, run_side_by_side
from tgsbench.launch.watch import StopSignals
from tgsbench.results.results import result_from_folder
from tgsbench.schema.run import Result

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1500)]

TINY = [
    "model.num_layers=2", "model.hidden_size=64", "model.intermediate_size=128", "model.num_query_heads=4",
    "model.num_kv_heads=2", "workload.corpus=lengths", "workload.seq_len=512", "measure.steps=6",
    "measure.warmup=1", "training.accumulation=2", "training.checkpointing=full", "training.clip_norm=0.1",
]  # fmt: skip
"""A step takes 50 ms on one core."""

SEEN = {
    "packs_read_from_one_place": "tokens",
    "the_same_packs_every_step": "tokens",
    "the_epoch_holds_one_pack": "packs",
    "tokens_counted_twice": "tokens",
    "ids_replaced_before_the_embedding": "tokens",
    "half_of_the_ids_fed": "tokens",
    "a_micro_step_not_run": "tokens",
    "every_rank_fed_the_first_shard": "tokens",
    "sequence_parallel_off": "all-to-alls",
    "all_to_alls_kept_local": "all-to-alls",
    "all_to_alls_of_half_the_bytes": "all-to-alls",
    "nothing_recomputed": "all-to-alls",
    "clock_starts_late": "clock",
    "clock_stops_early": "clock",
    "step_time_halved": "clock",
    "optimizer_never_steps": "update",
    "optimizer_stops_after_a_step": "update",
    "learning_rate_without_its_warm_up": "update",
    "learning_rate_tenfold": "update",
    "loss_of_nothing": "first loss",
    "gradients_of_nothing": "gradient norm",
    "targets_not_shifted": "first loss",
    "a_micro_step_dropped": "gradient norm",
    "a_layer_skipped": "update",
    "no_clipping": "gradient norm",
    "clipping_per_parameter": "gradient norm",
}
"""Fault -> the check that names it, on two ranks, sp 2, accumulation 2."""

SEEN_AT_DP_2 = {"both_data_parallel_groups_on_the_same_packs": "tokens"}
SEEN_PADDED = {"padding_counted": "tokens", "padding_counted_everywhere": "tokens"}

UNSEEN = {
    "attention_not_causal": "which keys a query sees",
    "no_rope": "what attention computes",
}
"""Fault -> what an ordinary run cannot see of it; `tgsbench verify` does."""


def results(folder: Path, words: list[str], faults: list[str]) -> dict[str, Result]:
    preset = presets.resolve("tiny_cpu", [*TINY, *words]).preset
    names = ["sound", *(f"fault-{name}" for name in faults)]
    half = len(names) // 2
    groups = [{n: WantedRun(preset, "") for n in part} for part in (names[:half], names[half:]) if part]
    with StopSignals() as stop:
        made, _ = run_side_by_side(folder, groups, stop, lambda _: None)
    return {name.removeprefix("fault-"): result_from_folder(run) for name, run in made.items()}


def told(result: Result) -> set[str]:
    assert result.status in ("ok", "invalid"), result.failure
    assert (result.status == "invalid") == bool(result.integrity.problems)
    return {problem.split(":")[0] for problem in result.integrity.problems}


SETS = {
    "sp": ([], SEEN | dict.fromkeys(UNSEEN, "")),
    "dp": (["hardware.num_gpus=2", "parallel.sp=1"], SEEN_AT_DP_2),
    "padded": (["workload.packing=xtuner_stock", "workload.map_batch_size=4"], SEEN_PADDED),
}


@pytest.mark.parametrize("which", SETS)
def test_each_fault_of_an_ordinary_run_is_named_and_a_sound_run_has_none(tmp_path, monkeypatch, which):
    words, faults = SETS[which]
    break_builds(monkeypatch)
    found = results(tmp_path, words, list(faults))
    assert told(found.pop("sound")) == set()
    names = {fault: told(result) for fault, result in found.items()}
    assert {fault: got for fault, got in names.items() if faults[fault] and faults[fault] not in got} == {}
    assert {fault: got for fault, got in names.items() if not faults[fault] and got} == {}
