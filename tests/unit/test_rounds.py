"""Engines in turns: who runs when, when it ends, and what is made of the runs."""

from __future__ import annotations

import pytest

from tests.unit.stored import a_preset, a_result
from tgsbench.external import config_lines
from tgsbench.launch import interleaved
from tgsbench.launch.interleaved import EngineRuns, Limits
from tgsbench.report import collect, comparison, page
from tgsbench.schema.run import Failure


def some(*engines: str) -> list[EngineRuns]:
    return [EngineRuns(engine=e, preset=a_preset("llama2_7b_32k", f"engine.name={e}")) for e in engines]


def runner(figures, log=None):
    """Stands in for real runs: the next TGS of each engine, or a failed run where it is None."""
    left = {engine: iter(values) for engine, values in figures.items()}

    def run(preset, root, tag, say):
        engine = preset.engine.name
        if log is not None:
            log.append(engine)
        tgs = next(left[engine])
        if tgs is None:
            failure = Failure(kind="oom", reason="CUDA out of memory")
            return a_result(preset, f"{engine}-x", samples=[], status="oom", failure=failure)
        return a_result(preset, f"{engine}-x", samples=[tgs])

    return run


def test_the_order_is_shuffled_and_every_second_round_runs_backwards(tmp_path):
    names = [[e.engine for e in interleaved.order(some("fsdp2", "deepspeed"), i)] for i in range(20)]
    assert all(names[i] == names[i + 1][::-1] for i in range(0, 20, 2))
    assert len({tuple(order) for order in names[::2]}) == 2, "rotated, not shuffled"
    engines, log = some("fsdp2", "deepspeed"), []
    figures = {"fsdp2": [100, 101, 100, 101], "deepspeed": [50, 50.5, 50, 50.5]}
    interleaved.run_interleaved(engines, tmp_path, Limits(), lambda _: None, "t", runner(figures, log))
    assert log[:6] == [name for order in names[:3] for name in order]


def test_a_fixed_number_of_rounds_is_run_whatever_the_intervals_are(tmp_path):
    engines = some("fsdp2", "deepspeed")
    figures = {"fsdp2": [100.0] * 9, "deepspeed": [50.0] * 9}
    said = interleaved.run_interleaved(
        engines, tmp_path, Limits(rounds=5), lambda _: None, "t", runner(figures)
    )
    assert said == "5 rounds were run"
    assert [len(engine.results) for engine in engines] == [5, 5]


def test_the_row_of_an_engine_has_the_spread_between_its_runs(tmp_path):
    (engine,) = some("fsdp2")
    engine.results = [a_result(engine.preset, "x", samples=[tgs]) for tgs in (100.0, 110.0, 121.0)]
    row = interleaved.as_row(engine)
    assert row.repeats == 3
    assert row.tgs == pytest.approx(110.0)
    assert row.ci95[0] < 100.0 and row.ci95[1] > 121.0


def test_it_ends_when_every_interval_is_narrow(tmp_path):
    engines = some("fsdp2", "deepspeed")
    figures = {"fsdp2": [100.0, 130.0, 90.0, 110.0], "deepspeed": [50.0, 65.0, 45.0, 55.0]}
    said = interleaved.run_interleaved(
        engines, tmp_path, Limits(within=0.01), lambda _: None, "t", runner(figures)
    )
    # The machine drifts by 40 %, the pairs agree: three rounds are enough.
    assert "after 3 rounds" in said
    found = interleaved.comparison(engines[1], engines[0], force=False)
    assert found.ratio.value == pytest.approx(0.5)
    assert "pairs" in found.ratio.method


def test_a_wide_interval_goes_on_until_the_budget_is_spent(tmp_path):
    engines = some("fsdp2", "deepspeed")
    figures = {"fsdp2": [100.0, 200.0] * 9, "deepspeed": [100.0] * 18}
    said = interleaved.run_interleaved(
        engines, tmp_path, Limits(budget_s=-1), lambda _: None, "t", runner(figures)
    )
    assert said == "fewer than two engines are left"
    done, left = sorted(engines, key=lambda engine: -len(engine.results))
    assert (len(done.results), len(left.results)) == (1, 0)
    assert "within the budget" in left.reason
    assert interleaved.as_row(left).status == "not run"


def test_no_round_starts_that_cannot_end_within_the_budget(tmp_path, monkeypatch):
    clock = {"s": 0.0}
    monkeypatch.setattr(interleaved.time, "monotonic", lambda: clock["s"])
    engines, figures = some("fsdp2", "deepspeed"), {"fsdp2": [100.0, 200.0] * 9, "deepspeed": [100.0] * 18}
    run = runner(figures)

    def slow(*args):
        clock["s"] += 10.0
        return run(*args)

    said = interleaved.run_interleaved(engines, tmp_path, Limits(budget_s=50), lambda _: None, "t", slow)
    assert "budget of 50 s after 2 rounds" in said
    assert clock["s"] == 40.0


def test_an_engine_that_runs_out_of_memory_leaves_and_its_result_stays(tmp_path):
    engines = some("fsdp2", "deepspeed")
    figures = {"fsdp2": [100.0] * 9, "deepspeed": [50.0, None]}
    said = interleaved.run_interleaved(engines, tmp_path, Limits(), lambda _: None, "t", runner(figures))
    assert said == "fewer than two engines are left"
    assert [r.status for r in engines[1].results] == ["ok", "oom"]
    assert "out of memory" in engines[1].reason


def test_ten_runs_each_that_never_overlap_are_a_proven_difference(tmp_path):
    engines = some("fsdp2", "deepspeed")
    for contender, base in zip(engines, (100.0, 50.0), strict=True):
        contender.results = [a_result(contender.preset, "x", samples=[base + i / 10]) for i in range(5)]
    found = interleaved.comparison(engines[1], engines[0], force=False)
    assert found.verdict == "worse"
    assert found.ratio.p_value == pytest.approx(2 / 252)


def test_other_work_per_step_is_not_compared_without_force(tmp_path):
    engines = some("fsdp2", "deepspeed")
    engines[1].preset = a_preset("llama2_7b_8k", "engine.name=deepspeed")
    for contender in engines:
        contender.results = [a_result(contender.preset, "x", samples=[9.0 + i]) for i in range(3)]
    assert interleaved.comparison(engines[1], engines[0], force=False).ratio is None
    forced = interleaved.comparison(engines[1], engines[0], force=True)
    assert forced.forced
    assert forced.verdict == "not comparable"


def test_an_engine_that_cannot_is_told_with_its_reason():
    found = interleaved.contenders("tiny_cpu", [], ["fsdp2", "llamafactory"], False)
    assert found[0].runs_on
    assert "no sequence parallelism" in found[1].reason
    assert interleaved.as_row(found[1]).status == "unsupported"


def test_beside_an_engines_speed_stand_its_own_figure_start_up_and_configuration():
    preset = a_preset("tiny_cpu", "engine.name=swift", "training.checkpointing=full")
    own = {"claimed_tgs": 90.0, "claimed_basis": "warm-up included", "start_up_s": 80.0}
    engine = EngineRuns(engine="swift", preset=preset)
    engine.results = [a_result(preset, "x", samples=[100.0], **own)] * 2
    row = interleaved.as_row(engine)
    assert (row.own_tgs, row.start_up_s) == (90.0, 80.0)
    assert row.config_lines > 40
    assert "swift: its own figure is -10.0% from ours: warm-up included" in comparison.unequal_lines([row])
    head, line = comparison.table([row])
    assert "own figure" in head and "90.00 (-10.0%)" in line and "1:20" in line


def test_an_own_figure_that_is_near_needs_no_explanation():
    preset = a_preset("tiny_cpu", "engine.name=torchtitan", "parallel.sp=1", "training.checkpointing=full")
    engine = EngineRuns(engine="torchtitan", preset=preset)
    engine.results = [a_result(preset, "x", samples=[100.0], claimed_tgs=101.0, claimed_basis="rounded")]
    assert not [line for line in comparison.unequal_lines([interleaved.as_row(engine)]) if "rounded" in line]


def test_an_engine_that_failed_is_a_row_with_its_cause(tmp_path):
    engines = some("fsdp2", "deepspeed")
    interleaved.run_interleaved(
        engines, tmp_path, Limits(), lambda _: None, "t", runner({"fsdp2": [100.0] * 3, "deepspeed": [None]})
    )
    rows = [interleaved.as_row(engine) for engine in engines]
    assert "deepspeed: oom: CUDA out of memory" in comparison.unequal_lines(rows)


def test_a_users_lines_are_the_values_that_a_preset_gives():
    lean = config_lines.count(a_preset("tiny_cpu"))
    assert config_lines.count(a_preset("tiny_cpu", "training.lr=1e-3", "parallel.sp=1")) == lean
    assert 3 < lean < 15


def test_the_page_has_the_engines_in_their_order_against_the_first_and_failures_too(tmp_path):
    engines = some("fsdp2", "deepspeed")
    figures = {"fsdp2": [100.0] * 3, "deepspeed": [None]}
    interleaved.run_interleaved(engines, tmp_path, Limits(), lambda _: None, "t", runner(figures))
    rows = [interleaved.as_row(engine) for engine in engines]
    compared = [interleaved.comparison(engines[1], engines[0], False)]
    notes = comparison.unequal_lines(rows)
    html = page.render(collect.side_by_side(rows, compared, engines[0].preset, notes))
    assert html.index(">fsdp2<") < html.index(">deepspeed<")
    assert "deepspeed against fsdp2: not comparable" in html
    assert "deepspeed: oom: CUDA out of memory" in html and "config lines" in html
