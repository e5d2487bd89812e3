"""Where a rank is inside its step, in words and as a share, and how long a watcher waits for more."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.cli.progress import PlainProgress
from tgsbench.live.fold import LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.metrics import progress
from tgsbench.metrics.failure import root_cause, waiting_for
from tgsbench.metrics.observe import fold_events
from tgsbench.planner import forecast_preset
from tgsbench.schema.events import Heartbeat, Hello, Phase, Step
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.run import Outcome
from tgsbench.tui.live_text import phase_text

BEAT = Heartbeat(
    step=3, step_s=100.0, micro_step=5, num_micro_steps=64, doing="backward", layer=12, num_layers=80
)


def forecast(step_s: float | None) -> Forecast:
    """The planner's word with a step of so many seconds."""
    preset = presets.resolve("tiny_cpu").preset
    return replace(forecast_preset(preset), step_s=step_s)


def test_a_place_names_micro_step_layer_and_collective():
    assert progress.place(BEAT) == "micro-step 5 of 64, backward of layer 12 of 80"
    waiting = replace(BEAT, doing="forward", collective="all-to-all")
    assert progress.place(waiting) == "micro-step 5 of 64, forward of layer 12 of 80, in the all-to-all"
    assert progress.place(replace(BEAT, doing="optimizer", layer=0)) == "optimizer"
    assert progress.place(Heartbeat(step=3)) == ""


def test_the_share_of_a_step_grows_from_its_first_data_to_its_optimizer():
    one = replace(BEAT, micro_step=1, num_micro_steps=2)
    places = [
        replace(one, doing="data", layer=0),
        replace(one, doing="forward", layer=41),
        replace(one, doing="backward", layer=0),
        replace(one, doing="backward", layer=40),
        replace(one, micro_step=2, doing="data", layer=0),
        replace(one, micro_step=2, doing="optimizer", layer=0),
    ]
    shares = [progress.share_done(beat) for beat in places]
    assert shares == pytest.approx([0.0, 1 / 12, 1 / 6, 1 / 3, 1 / 2, 1.0])


@pytest.mark.parametrize(
    "damage", [{"micro_step": 900}, {"num_micro_steps": -1}, {"layer": 2**62}, {"num_layers": 0}]
)
def test_the_share_stays_between_0_and_1_whatever_a_file_says(damage):
    assert 0.0 <= progress.share_done(replace(BEAT, **damage)) <= 1.0


def test_patience_follows_the_forecast_of_a_micro_step_and_the_longest_wait_seen():
    preset = presets.resolve("llama2_70b_1M").preset
    assert (preset.accumulation, preset.measure.stall_s) == (64, 600.0)
    assert progress.patience_s(preset, None) == 600.0
    assert progress.patience_s(preset, forecast(6400.0)) == 600.0, "never below what the preset says"
    assert progress.patience_s(preset, forecast(64_000.0)) == 3000.0
    assert progress.patience_s(preset, forecast(64_000.0), longest_wait_s=1500.0) == 4500.0
    assert progress.patience_s(preset, forecast(None)) == 600.0
    quick = replace(preset, measure=replace(preset.measure, stall_s=1.0, heartbeat_s=20.0))
    assert progress.patience_s(quick, None) == 60.0, "progress is seen no sooner than the next heartbeat"


def test_another_system_tells_of_whole_steps_only():
    preset = presets.resolve("llama2_7b_8k", ["engine.name=llamafactory", "training.accumulation=4"]).preset
    assert progress.patience_s(preset, forecast(1000.0)) == 3000.0


def _stalled(*beats: Heartbeat) -> str:
    hellos = [Hello(rank=b.rank, world=len(beats), host="a", device="cpu", pid=b.rank + 1) for b in beats]
    observed = fold_events([*hellos, *beats])
    outcome = Outcome(status="stalled", reason="no rank made progress for 600 s")
    return root_cause(observed, outcome, None, len(beats)).reason


def test_a_stalled_run_says_which_rank_the_others_wait_for_and_where():
    ahead = [replace(BEAT, rank=rank, ticks=90, collective="all-to-all") for rank in (0, 1, 2)]
    late = replace(BEAT, rank=3, ticks=71, doing="data", layer=0)
    assert _stalled(*ahead, late) == (
        "no rank made progress for 600 s; rank 3 in step 4, micro-step 5 of 64, data; "
        "the others wait in micro-step 5 of 64, backward of layer 12 of 80, in the all-to-all"
    )


def test_ranks_that_all_stand_at_one_place_are_not_told_apart():
    assert _stalled(*(replace(BEAT, rank=rank, ticks=7) for rank in (0, 1))).endswith(
        "; all ranks in step 4, micro-step 5 of 64, backward of layer 12 of 80"
    )
    assert waiting_for(fold_events([Heartbeat(rank=0, step=1)])) == "", (
        "files of an older version say no place"
    )


def _inside(num_micro_steps: int, micro_step: int, step_s: float, rank: int = 0) -> Heartbeat:
    return Heartbeat(
        rank=rank, seq=micro_step, step_s=step_s, micro_step=micro_step, num_micro_steps=num_micro_steps,
        doing="data", ticks=micro_step,
    )  # fmt: skip


def test_the_live_view_shows_where_a_long_step_is_and_when_all_will_be_done():
    preset = presets.resolve("tiny_cpu", ["measure.steps=3", "measure.warmup=1"]).preset
    view = RunView(StepPlan.of(preset), LiveRun(2))
    view.live.add_events([Phase(rank=0, phase="warmup"), Phase(rank=1, phase="warmup")])
    view.live.add_events([_inside(64, 17, 160.0), _inside(64, 33, 160.0, rank=1)])
    headline = view.headline()
    assert headline.inside == "step 1: micro-step 17 of 64, data, 8:00 to its end"
    assert headline.eta_s == pytest.approx(480.0 + 3 * 640.0)
    assert "micro-step 17 of 64" in phase_text(headline, 120, is_over=False)
    assert "micro-step" not in phase_text(headline, 120, is_over=True)


def test_a_short_step_is_not_shown_from_inside():
    preset = presets.resolve("tiny_cpu").preset
    view = RunView(StepPlan.of(preset), LiveRun(1))
    view.live.add_events([Phase(rank=0, phase="measure"), _inside(2, 1, 0.5)])
    assert (view.headline().inside, view.headline().eta_s) == ("", None)


def test_headless_progress_tells_at_most_ten_times_of_the_inside_of_a_step(capsys):
    preset = presets.resolve("tiny_cpu", ["hardware.num_gpus=1", "parallel.sp=1"]).preset
    plain = PlainProgress(preset, to_stderr=False)
    plain.update([Phase(rank=0, phase="measure")])
    for micro_step in range(1, 65):
        plain.update([_inside(64, micro_step, 10.0 * micro_step)])
    plain.update([Step(rank=0, step=0, step_s=640.0, tokens=10, labels=10)])
    said = [line for line in capsys.readouterr().err.splitlines() if "micro-step" in line]
    assert len(said) == 9
    assert said[0].startswith("step 1: micro-step 8 of 64, data, ")
