"""Figures of ever longer runs take the same memory, and the sample that stands for them is a fair one."""

import random
import statistics
import tracemalloc

import pytest

from tgsbench import presets
from tgsbench.live.fold import LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.metrics import packed_steps, spread, thinned
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import build_result, throughput
from tgsbench.metrics.thinned import Thinned
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Step, Waits
from tgsbench.schema.run import Manifest

PRESET = presets.resolve("tiny_cpu").preset
MANIFEST = Manifest(
    run_id="r", preset="tiny_cpu", engine="fsdp2", device="cpu", world_size=2, created_unix=1.0
)


def kept(values, most):
    found = Thinned(most)
    for value in values:
        found.append(value)
    return found


def test_as_many_as_fit_are_kept_as_they_came():
    assert list(kept(range(99), 100)) == list(range(99))


@pytest.mark.parametrize("num", [100, 101, 199, 200, 201, 399, 400, 12_345])
def test_one_of_each_block_of_neighbours_stands_for_it(num):
    found = kept(range(num), 100)
    assert found.num_told == num
    assert found.stride * 50 <= num < found.stride * 100
    blocks = [int(value) // found.stride for value in found]
    assert blocks == list(range(len(found)))
    assert len(found) >= num // found.stride


def test_what_happens_every_eighth_step_keeps_its_share():
    slow = [1.0 if step % 8 == 0 else 0.0 for step in range(80_000)]
    assert statistics.mean(kept(slow, 10_000)) == pytest.approx(1 / 8, rel=0.1)


def test_the_same_figures_give_the_same_sample():
    values = [random.Random(3).random() for _ in range(5000)]
    assert list(kept(values, 64)) == list(kept(values, 64))


def events(num_steps):
    draw = random.Random(2)
    for step in range(num_steps):
        for rank in range(2):
            seconds = 0.5 + draw.random() / 50
            yield Step(
                step=step, rank=rank, tokens=1024, labels=900, step_s=seconds, t=step / 2 + 1,
                phase="measure", loss_sum=draw.random(), grad_norm=draw.random(),
                update=1e-3 if step % 100 == 0 else None,
            )  # fmt: skip
            yield Waits(step=step, rank=rank, step_s=seconds, wait_s={"sp": draw.random() / 50})


def result_of(num_steps):
    return build_result(MANIFEST, PRESET, fold_events(events(num_steps), 2), None, None, Environment())


def live_of(num_steps):
    live = LiveRun(2)
    view = RunView(StepPlan.of(PRESET), live)
    for event in events(num_steps):
        if isinstance(event, Step):
            live.add_events([event])
    return view.headline()


def peak_bytes(look, num_steps):
    tracemalloc.start()
    try:
        look(num_steps)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def small(monkeypatch):
    """What is kept as it is, is less than in earnest: a run of thousands of steps is a long one."""
    monkeypatch.setattr(thinned.Thinned.__init__, "__defaults__", (256,))
    monkeypatch.setattr(packed_steps, "_IN_MEMORY", 1 << 12)
    monkeypatch.setattr(packed_steps, "_BLOCK", 64)
    monkeypatch.setattr(spread, "_MOST", 16)  # the pairs of 256 steps hide what 8,000 steps take


def test_a_run_twice_as_long_takes_no_more_memory(small):
    result_of(500)
    more = peak_bytes(result_of, 8192) - peak_bytes(result_of, 4096)
    assert more < 4096, "bytes; one figure of each step takes eight times as much"


def test_the_live_headline_keeps_no_figure_of_each_step(small):
    head = live_of(1000)
    assert head.tgs.n == len(head.tgs.samples) == 250
    assert head.steps_done == 1000


def test_a_result_says_that_its_figure_rests_on_a_sample(small):
    found = result_of(1000)
    assert found.tgs.n == len(found.tgs.samples) == len(found.step_s.samples) == 250
    assert any("250 of 1,000 measured steps, one drawn from each 4" in text for text in found.warnings)
    assert result_of(200).tgs.n == 200
    assert not any("drawn" in text for text in result_of(200).warnings)


def test_the_total_rests_on_every_step(small):
    steps = fold_events(events(1000), 2).complete("measure", 2)
    tokens, seconds = sum(s.tokens for s in steps), sum(s.step_s for s in steps)
    assert throughput(steps, 2).total == pytest.approx(tokens / 2 / seconds)
    assert live_of(1000).tgs.total == pytest.approx(tokens / 2 / seconds)


def test_steps_are_kept_in_memory_where_a_file_has_no_room(small, monkeypatch):
    expected = list(map(repr, fold_events(events(9000), 2).complete("", 2)))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_steps.os, "pwrite", full)
    assert list(map(repr, fold_events(events(9000), 2).complete("", 2))) == expected
