from tgsbench.live.fold import LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.presets import resolve
from tgsbench.schema.events import Phase
from tgsbench.tui.live_text import phase_text, wrapped


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
