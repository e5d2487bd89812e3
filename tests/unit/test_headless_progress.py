"""Headless progress says the same whether events are handed to it or it follows a run's files."""

import io
import re

import pytest

from benchmarks.simulate import Scenario, rank_events, write_events
from tgsbench import presets
from tgsbench.cli.progress import PlainProgress
from tgsbench.cli.progress_bar import RichProgress
from tgsbench.launch.narration import Narrator
from tgsbench.live.follow import FollowFeed
from tgsbench.schema.events import Phase, Step, Warn

SCENARIO = Scenario(world=4, warmup=2, steps=6, step_s=3.0, gpu_period_s=1, heartbeat_s=1)


@pytest.fixture
def progress():
    sets = ["measure.warmup=2", "measure.steps=6", "hardware.num_gpus=4"]
    preset = presets.resolve("tiny_cpu", sets).preset
    return PlainProgress(preset, to_stderr=False)


def test_each_step_is_printed_once_when_all_ranks_have_reported_it(progress, capsys):
    figures = {"tokens": 100, "labels": 10, "loss_sum": 20.0, "mem_peak": 2**30}
    steps = [
        Step(step=step, rank=rank, step_s=1.0 + rank, **figures) for step in range(2) for rank in range(4)
    ]
    progress.update(steps[:3])
    assert capsys.readouterr().out == ""
    progress.update([steps[3], steps[3], *steps[4:7]])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 1/8  measure  TGS 25.00  ")
    assert line.endswith("4 s  mem 1.00 GiB  loss 2.0000")
    progress.update(steps[7:])
    assert capsys.readouterr().out.startswith("step 2/8 ")


def test_files_that_are_followed_say_what_their_events_say(progress, capsys, tmp_path):
    write_events(tmp_path, SCENARIO)
    with (tmp_path / "events" / "node00000.jsonl").open("w") as file:
        file.write('{"type":"warn","code":"x","msg":"foreign load","rank":-1}\n')
    progress.follow(FollowFeed(tmp_path / "events"))
    followed = capsys.readouterr()
    assert len(followed.out.splitlines()) == SCENARIO.total_steps
    assert "warning: foreign load" in followed.err
    assert followed.err.index("build") < followed.err.index("warmup") < followed.err.index("teardown")
    events = [event for rank in range(4) for event in rank_events(SCENARIO, rank)]
    again = PlainProgress(progress._fold.preset, to_stderr=False)
    again.update([Warn(code="x", msg="foreign load", rank=-1), *events])
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(followed.err.splitlines())


def large_steps(count, phase="measure"):
    """Steps whose figures take as much room as any."""
    figures = {"tokens": 10**7, "labels": 10, "loss_sum": 120.0, "mem_peak": 79 << 30, "step_s": 12.34}
    return [Step(step=step, rank=rank, phase=phase, **figures) for step in range(count) for rank in range(4)]


def test_a_line_of_a_step_fits_80_columns(progress, capsys):
    progress.update(large_steps(8))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[-1].startswith("step 8/8  measure  TGS 810,373")
    assert max(map(len, lines)) <= 80


def test_the_bar_fits_80_columns_with_step_and_time(progress, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    with RichProgress(progress._fold.preset, stream) as bar:
        bar._bar.console._width = 80
        bar.update([Phase(rank=0, phase="measure"), *large_steps(7)])
        bar._bar.refresh()
        drawn = "".join(map(str, bar._bar.console.render_lines(bar._bar.get_renderable())[0]))
    text = "".join(re.findall(r"Segment\('([^']*)'", drawn)).rstrip()
    assert len(text) <= 80 and "7/8  TGS 810,373  12.3 s" in text
    assert "0:00:0" in text, "elapsed"


def test_a_silent_phase_tells_the_time_so_far_every_ten_seconds(progress):
    clock, said = {"s": 0.0}, []
    narrator = Narrator(progress._fold.preset, said.append, clock=lambda: clock["s"])
    narrator.hear([Phase(rank=0, phase="build", note="compiling")])
    for second in range(1, 26):
        clock["s"] = float(second)
        narrator.hear([])
    assert said == ["compiling, 10 s since the start", "compiling, 20 s since the start"]
    narrator.hear([Step(step=0, rank=0, tokens=1000, step_s=2.0)])
    clock["s"] = 31.0
    narrator.spoken()
    clock["s"] = 40.0
    narrator.hear([])
    assert len(said) == 2, "something else was said 9 s ago"
    clock["s"] = 42.0
    narrator.hear([])
    assert said[2] == "step 1/8, TGS about 500.0, 42 s since the start"
