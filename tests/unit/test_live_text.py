from types import SimpleNamespace

import pytest

from tgsbench.live.fold import LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.presets import resolve
from tgsbench.schema.events import Heartbeat, Phase
from tgsbench.tui.live_text import big_title, interval_text, phase_text, wrapped


def test_a_phase_with_a_note_is_told_in_full_at_80_columns():
    view = RunView(StepPlan.of(resolve("tiny_cpu").preset), LiveRun(2))
    note = "training a tokenizer, once per corpus"
    view.live.add_events([Phase(t=0.0, rank=rank, seq=0, phase="data", note=note) for rank in range(2)], 0.0)
    text = phase_text(view.headline(), 78, is_over=False)
    assert f"data ({note})" in text
    assert text.endswith("step 0/12")
    assert len(text) == 77


def test_a_long_note_goes_on_below_and_keeps_every_word():
    note = "    try: " + " ".join(f"word{i}" for i in range(30))
    lines = wrapped(("short", "", note), 60)
    assert lines[:2] == ["short", ""]
    assert lines[2].startswith("    try: word0")
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(lines[2:]).split() == note.split()


def test_progress_inside_a_long_step_stands_in_80_columns_and_says_when_it_is_cut():
    view = RunView(StepPlan.of(resolve("tiny_cpu").preset), LiveRun(1))
    beat = Heartbeat(rank=0, seq=17, step_s=160.0, micro_step=17, num_micro_steps=300, doing="data", ticks=17)
    view.live.add_events([Phase(rank=0, phase="warmup"), beat])
    text = phase_text(view.headline(), 78, is_over=False)
    assert text.startswith("warmup (step 1: micro-step 17 of 300, data")
    assert "…  step 0/12  left " in text, "what is cut says so, and keeps apart from what follows"
    assert len(text) == 77


def headline(median=None, newest=None, n=0):
    return SimpleNamespace(tgs=SimpleNamespace(median=median, ci95=None, n=n), newest_tgs=newest)


@pytest.mark.parametrize(
    ("status", "is_over", "shown", "title"),
    [
        ("ok", True, headline(10.0, 10.0, 6), "TGS  tokens/GPU/s"),
        ("running", False, headline(10.0, 10.0, 6), "TGS  tokens/GPU/s"),
        ("running", False, headline(None, 10.0), "TGS  tokens/GPU/s  warm-up"),
        ("running", False, headline(), "TGS  tokens/GPU/s"),
        ("crashed", True, headline(10.0, 10.0, 6), "TGS  tokens/GPU/s  crashed"),
        ("cancelled", True, headline(), "TGS  tokens/GPU/s"),
        ("invalid", True, headline(10.0, 10.0, 6), "TGS  tokens/GPU/s  INVALID"),
    ],
)
def test_the_big_number_says_when_it_is_no_result(status, is_over, shown, title):
    session = SimpleNamespace(status=status, is_over=is_over)
    assert big_title(session, shown) == title
    assert len(f"> {title}") <= 32, "as wide as the figure at 80 columns"


def test_an_ended_run_does_not_say_that_something_is_still_to_come():
    assert interval_text(headline(), is_over=True) == "no step was finished"
    assert interval_text(headline(), is_over=False) == "no step finished yet"
    assert interval_text(headline(None, 5.0), is_over=True) == "no measured step: warm-up only"
    assert interval_text(headline(None, 5.0), is_over=False) == "warming up: not counted"
