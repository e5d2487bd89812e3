import math
import statistics

import msgspec
import pytest

from benchmarks.simulate import Scenario, rank_events
from tgsbench import presets
from tgsbench.live.explain import TEXTS, explain
from tgsbench.live.fold import MAX_NOTES, LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.live.history import GRID_CAPACITY, DownsampledSeries, RankRow, StepGrid
from tgsbench.live.pending import MAX_PENDING_STEPS
from tgsbench.live.stragglers import find_silent, find_stragglers, slow_ratios
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import throughput
from tgsbench.metrics.step_total import StepTotal
from tgsbench.models.flops import CONVENTIONS
from tgsbench.schema import events as ev


def fold(scenario, order=None):
    live = LiveRun(scenario.world)
    streams = [list(rank_events(scenario, rank)) for rank in range(scenario.world)]
    for stream in order(streams) if order else streams:
        live.add_events(stream)
    return live


def in_pieces(streams, size=7):
    longest = max(map(len, streams))
    return [s[i : i + size] for i in range(0, longest, size) for s in streams]


SMALL = Scenario(world=4, warmup=2, steps=12, step_s=3.0, gpu_period_s=1, heartbeat_s=1)


def test_tgs_of_the_fold_is_the_stored_results_tgs():
    live = fold(SMALL)
    events = [e for rank in range(4) for e in rank_events(SMALL, rank)]
    expected = throughput(fold_events(events).complete("measure", 4), 4)
    assert list(live.tgs_samples) == expected.samples
    assert live.num_complete == 14
    assert live.num_partial == 0


@pytest.mark.parametrize("missing", [(), (2,), (0, 1, 2, 3)])
def test_ranks_at_once_add_up_to_what_their_events_add_up_to_one_by_one(missing):
    events = [
        ev.Step(rank=rank, step=9, phase="measure", tokens=7 * rank, labels=rank, loss_sum=0.5 * rank,
                step_s=3.0 - rank, mem_peak=2**40 + rank)
        for rank in range(3)
    ]  # fmt: skip
    events = [None if event.rank in missing else event for event in events]
    single = StepTotal(9, "measure")
    for event in filter(None, events):
        single.add(event)
    single.reported = 0
    names = ("step_s", "mem_peak", "tokens", "labels", "loss_sum")
    columns = ([float(getattr(event, name)) if event else math.nan for event in events] for name in names)
    assert StepTotal.of_ranks(9, "measure", *columns) == single


def test_the_order_in_which_ranks_are_read_does_not_change_the_fold():
    whole, pieces = fold(SMALL), fold(SMALL, in_pieces)
    assert list(whole.tgs_samples) == list(pieces.tgs_samples)
    assert whole.tgs.y == pieces.tgs.y
    assert [list(r.step_s) for r in whole.grid.rows] == [list(r.step_s) for r in pieces.grid.rows]


def test_duplicated_and_foreign_events_change_no_figure():
    live = LiveRun(2)
    step = ev.Step(step=0, phase="measure", tokens=100, step_s=2.0, labels=10, loss_sum=20.0)
    twin = msgspec.structs.replace(step, rank=1)
    live.add_events([step, step, twin, twin, msgspec.structs.replace(step, rank=7)])
    assert list(live.tgs_samples) == [50.0]
    assert live.loss.y == [2.0]
    assert live.num_ignored == 3


def test_a_step_that_one_rank_never_reports_is_counted_and_left_out_of_tgs():
    live = LiveRun(2)
    for step in range(3):
        for rank in range(2):
            if (step, rank) != (1, 1):
                live.add_events([ev.Step(step=step, rank=rank, tokens=10, step_s=1.0)])
    assert live.num_partial == 1
    assert len(live.tgs_samples) == 2
    assert math.isnan(live.grid.rows[1].step_s[1])


def test_memory_is_bounded_whatever_the_number_of_steps():
    live = LiveRun(2)
    for step in range(3 * MAX_PENDING_STEPS):
        live.add_events([ev.Step(step=step, rank=0, step_s=1.0), ev.Warn(rank=0, code="x", msg="y")])
    assert len(live.pending) <= MAX_PENDING_STEPS
    assert len(live.grid.rows) <= GRID_CAPACITY
    assert len(live.notes) == MAX_NOTES
    assert live.num_notes == 3 * MAX_PENDING_STEPS


def test_a_full_trend_keeps_ends_extremes_and_mean():
    trend = DownsampledSeries(capacity=8)
    values = [float(i % 5) for i in range(1000)]
    for i, value in enumerate(values):
        trend.add(i, value)
    assert len(trend.x) <= 8
    assert trend.x[0] == 0
    assert min(trend.low) == 0.0
    assert max(trend.high) == 4.0
    assert all(low <= y <= high for low, y, high in zip(trend.low, trend.y, trend.high, strict=True))


def test_a_merged_grid_row_keeps_the_slowest_step_of_each_rank():
    grid = StepGrid(capacity=4)
    for step in range(16):
        slowest = _array([1.0, 9.0 if step == 5 else 1.0])
        gap = _array([math.nan if step == 6 else step, math.nan])
        grid.add(RankRow(step, step, slowest, slowest, slowest, _array([step, *gap])))
    assert max(row.step_s[1] for row in grid.rows) == 9.0
    steps = [range(row.first_step, row.last_step + 1) for row in grid.rows]
    assert [row.loss[0] for row in grid.rows] == [statistics.mean(of) for of in steps]
    own = [row.loss[1] for row in grid.rows]
    assert [own[0], *own[2:]] == [statistics.mean(of) for of in (steps[0], *steps[2:])]
    assert 4 < own[1] < 7, "the step that is missing leaves the others"
    assert all(math.isnan(row.loss[2]) for row in grid.rows)
    assert grid.rows[0].first_step == 0
    assert grid.rows[-1].last_step == 15


def _array(values):
    from array import array

    return array("d", values)


@pytest.mark.parametrize("world", [8, 64, 1024])
def test_a_straggler_is_named_within_three_of_its_steps(world):
    scenario = Scenario(
        world=world, warmup=0, steps=5, step_s=1.0, straggler=world - 3, straggles_from=2,
        gpu_period_s=0, heartbeat_s=0,
    )  # fmt: skip
    found = find_stragglers(fold(scenario).grid.rows)
    assert [s.rank for s in found] == [world - 3]
    assert found[0].ratio == pytest.approx(1.18, abs=0.02)


def test_no_straggler_among_even_ranks():
    assert find_stragglers(fold(SMALL).grid.rows) == []


def test_ratios_of_missing_values_are_missing():
    assert slow_ratios([1.0, 1.0, 2.0])[2] == 2.0
    assert math.isnan(slow_ratios([1.0, math.nan])[1])
    assert all(math.isnan(r) for r in slow_ratios([math.nan, math.nan]))


def test_a_silent_rank_and_one_that_fell_behind_are_found():
    found = find_silent([10.0, 2.0, 10.0], [5, 5, 3], now=11.0, limit_s=6.0)
    assert [(s.rank, s.steps_behind) for s in found] == [(2, 2), (1, 0)]
    assert find_silent([10.0, 9.5], [5, 4], now=11.0, limit_s=6.0) == []


def view_of(live, name="llama2_7b_128k"):
    return RunView(StepPlan.of(presets.resolve(name).preset), live)


def test_the_headline_tells_phase_progress_and_time_left():
    streams = [list(rank_events(SMALL, rank)) for rank in range(4)]
    live = LiveRun(4)
    for stream in streams:
        live.add_events([e for e in stream if e.t < 1000 + 36 + 3.2 * 7])
    head = view_of(live).headline()
    assert head.phase == "measure"
    assert 0 < head.steps_done < 14
    assert head.eta_s == pytest.approx((13 - head.steps_done) * head.step_s)


def test_a_simulated_device_compares_with_nothing_and_has_no_mfu():
    view = view_of(fold(SMALL))
    head = view.headline()
    assert head.mfu is None
    assert head.verdict.verdict == "not comparable"
    assert any("GPU" in reason for reason in head.verdict.reasons)


def test_the_headline_of_a_known_gpu_is_judged_against_the_published_row():
    preset = presets.resolve("llama2_7b_128k").preset
    scenario = Scenario(
        world=8, device="NVIDIA A100-SXM4-80GB", step_s=131072 / 1100, steps=10, gpu_period_s=0
    )
    head = RunView(StepPlan.of(preset), fold(scenario)).headline()
    assert head.verdict.verdict == "better"
    assert head.mfu == pytest.approx(head.tflops["model"] / 312)


@pytest.mark.parametrize("figure", [*TEXTS, *(f"tflops:{name}" for name in CONVENTIONS)])
@pytest.mark.parametrize("empty", [True, False])
def test_every_figure_says_its_formula_and_source(figure, empty):
    view = view_of(LiveRun(8) if empty else fold(SMALL))
    explanation = explain(figure, view, view.headline())
    assert explanation.formula
    assert explanation.source
    assert explanation.title
    assert "nan" not in str(explanation.inputs)
