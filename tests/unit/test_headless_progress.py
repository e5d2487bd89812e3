"""Headless progress says the same whether events are handed to it or it follows a run's files."""

import pytest

from benchmarks.simulate import Scenario, rank_events, write_events
from tgsbench import presets
from tgsbench.cli.progress import PlainProgress
from tgsbench.live.follow import FollowFeed
from tgsbench.schema.events import Step, Warn

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
