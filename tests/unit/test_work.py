"""A result belongs to what was measured: overrides make another work, a name or more steps do not."""

from __future__ import annotations

import pytest

from tests.unit.stored import a_preset
from tgsbench import presets
from tgsbench.presets.work import changed_values, is_other_work, work_digest
from tgsbench.results.index import Summary
from tgsbench.tui.preset_rows import best_results


def ran(tgs, *sets):
    work = work_digest(a_preset("tiny_cpu", *sets))
    return Summary(run_id=f"run-{tgs}", status="ok", preset="tiny_cpu", tgs=tgs, work=work)


@pytest.mark.parametrize(
    "change",
    ["training.checkpointing=full", "workload.seq_len=2k", "engine.name=deepspeed", "parallel.sp=1",
     "hardware.num_gpus=4", "model.num_layers=1", "workload.corpus=lengths"],
)  # fmt: skip
def test_a_run_with_overrides_is_not_the_best_of_its_preset(change):
    own = work_digest(a_preset("tiny_cpu"))
    best = best_results([ran(500.0), ran(9000.0, change)])
    assert best[own].run_id == "run-500.0"


@pytest.mark.parametrize("change", ["measure.steps=3", "profile=hotspots", "description=x", "hardware.gpu=x"])
def test_more_steps_or_another_label_measure_the_same(change):
    assert work_digest(a_preset("tiny_cpu", change)) == work_digest(a_preset("tiny_cpu"))


def test_a_preset_of_another_name_shares_the_best_result(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny_cpu"\nname = "mine"\n')
    mine = presets.resolve(path).preset
    assert best_results([ran(500.0)])[work_digest(mine)].run_id == "run-500.0"


def test_what_was_changed_is_told_as_after_set():
    assert changed_values(a_preset("tiny_cpu")) == []
    changed = changed_values(a_preset("tiny_cpu", "measure.steps=3", "workload.seq_len=2k"))
    assert changed == ["workload.seq_len=2048", "measure.steps=3"]
    assert is_other_work(changed) and not is_other_work(changed[1:])
    assert a_preset("tiny_cpu", *changed) == a_preset("tiny_cpu", "measure.steps=3", "workload.seq_len=2k")
