"""Tunes in the UI: asked for in a form, followed by their state, stopped, saved; nothing here is measured."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from tests.tui.conftest import NUM_PRESETS, SIZES, shows, text_of, until
from tests.unit.test_tune import tiny_space
from tgsbench.presets import resolve
from tgsbench.system.lifetime import process_identity
from tgsbench.tui import tune_rows
from tgsbench.tui.screens.tune import TuneScreen
from tgsbench.tui.screens.tune_form import TuneForm
from tgsbench.tune import state as states
from tgsbench.tune.candidates import LongestSeen, Space
from tgsbench.tune.halving import Trial, TrialOutcome, Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.state import StateFile

pytestmark = pytest.mark.asyncio
ASKED = Asked(base="tiny_cpu", assignments=["workload.seq_len=512"])
TGS = {"full": (900.0, 700.0), "none": (1000.0, 800.0)}


def measured(space):
    """A tuner that was told of every way: two runs each, one out of memory."""
    tuner = Tuner(candidates=space.candidates)
    for repeat in range(2):
        for candidate in space.candidates:
            sp, mode = candidate.knobs["parallel.sp"], candidate.knobs["training.checkpointing"]
            status = "failed" if (sp, mode) == ("2", "full") else "ok"
            tuner.tell(
                TrialOutcome(
                    key=candidate.key,
                    rung=("short", "long")[repeat],
                    status=status,
                    tgs=TGS[mode][int(sp) - 1] + repeat if status == "ok" else None,
                    spread=0.01,
                    seconds=21.0,
                    mem_gib=3.0 - int(sp) if mode == "full" else 4.0 - int(sp),
                    run_id=f"tune-tiny-{sp}{mode}{repeat}",
                    reason="" if status == "ok" else "rank 1 crashed: a seeded fault",
                )
            )
    return tuner


def write_state(root, name="tiny", ended="nothing else is likely to be faster", **changes):
    space = tiny_space(usd_per_hour=2.0)
    tuner = measured(space)
    file = StateFile(root, name, ASKED, 600.0, space)
    trial = None if ended else Trial(key=space.candidates[0].key, rung="long", repeat=1)
    file.write(tuner, trial, ended)
    if changes:
        found = msgspec.structs.replace(states.read_state(root, name), **changes)
        states.path_of(root, name).write_bytes(msgspec.json.encode(found))
    return states.read_state(root, name)


async def on_tune(app, pilot, name="tiny"):
    await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
    app.open_tune(name)
    await until(pilot, lambda: isinstance(app.screen, TuneScreen))


async def ask(pilot, name):
    await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
    await pilot.press("slash", *name, "enter", "U")
    await until(pilot, lambda: isinstance(pilot.app.screen, TuneForm))


async def fill(pilot, key, text):
    pilot.app.screen.query_one(f"#set-{key}").focus()
    await pilot.press("ctrl+u", *text)


@pytest.mark.parametrize("size", SIZES)
async def test_the_screen_shows_the_verdict_of_the_state_and_every_pane(app, runs_root, size):
    found = write_state(runs_root)
    async with app.run_test(size=size) as pilot:
        await on_tune(app, pilot)
        shown = ("8 trials in 2:48", "best 1,001 TGS", "[settings]", "1 long run", "failed")
        screen = await shows(pilot, *shown)
        best = tune_rows.setting_rows(found.verdict)[0][1]
        assert all(str(cell).strip() in screen for cell in best)
        assert "--set parallel.sp=1" in screen and "over the runner-up" in screen
        await pilot.press("]")
        screen = await shows(pilot, "[trials]", "rank 1" if size[0] == 80 else "a seeded fault")
        assert "short" in screen and "long" in screen
        await pilot.press("]")
        screen = await shows(pilot, "[knobs]", "sp: 1 against 2", "recompute: none against full")
        assert "80 %; the other is measured" in screen
        await pilot.press("]")
        await shows(pilot, "[front]", "3.0 GiB" if size[0] > 80 else "GiB", "*")
        await pilot.press("]")
        await shows(pilot, "[left out]", "4 ways planned")
        await pilot.press("[", "[", "[", "[")
        await shows(pilot, "[settings]")
        await pilot.press("W")
        await shows(pilot, "[knobs]")


async def test_a_tune_that_goes_on_shows_its_trial_what_is_left_and_is_followed(app, runs_root):
    state = write_state(runs_root, ended="", trial_began_s=time.time() - 30)
    async with app.run_test(size=(120, 40)) as pilot:
        await on_tune(app, pilot)
        await shows(
            pilot, "left of 10:00", "best so far 1,001 TGS", "now 3", "long, time 2: sp=1 recompute=full"
        )
        shown = msgspec.structs.replace(state, is_over=True, trial=None, verdict=msgspec.structs.replace(
            state.verdict, ended="another trial does not fit into the budget of 10:00"))  # fmt: skip
        states.path_of(runs_root, "tiny").write_bytes(msgspec.json.encode(shown))
        await shows(pilot, "another trial does not fit into the budget")


async def test_stopping_asks_and_interrupts_the_process(app, runs_root):
    child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    child.stdout.readline()
    write_state(runs_root, ended="", pid=child.pid, process=process_identity(child.pid))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await on_tune(app, pilot)
        await pilot.press("s")
        await shows(pilot, "Stop the tune tiny?", "Let it go on")
        await pilot.press("j", "enter")
        assert child.poll() is None
        await pilot.press("s")
        await shows(pilot, "Stop the tune tiny?")
        await pilot.press("enter")
        await until(pilot, lambda: child.poll() is not None, "it was interrupted")
        assert child.returncode in (-signal.SIGINT, 1)
        await shows(pilot, "its process was killed")
        await pilot.press("s")
        await until(pilot, lambda: any("it is over" in n.message for n in app._notifications))


async def test_a_killed_tune_and_one_that_is_not_there_are_said_in_words(app, runs_root):
    write_state(runs_root, ended="", pid=2**22, process="gone")
    states.path_of(runs_root, "bad").write_text('{"name": 3}')
    async with app.run_test(size=(80, 24)) as pilot:
        await on_tune(app, pilot)
        await shows(pilot, "its process was killed", "the same command goes on")
        assert "left of" not in text_of(app) and "now" not in text_of(app)
        app.open_tune("none")
        await shows(pilot, "no tune called none in")
        app.open_tune("bad")
        await shows(pilot, "no state of a tune")
        assert "Traceback" not in text_of(app)


async def test_the_search_for_the_longest_sequence_is_shown_as_it_goes_on_and_how_it_ended(app, runs_root):
    lengths = [TrialOutcome(key=f"workload.seq_len={n}", rung="length", status=status, seconds=20.0, tgs=tgs,
                            reason="" if tgs else "rank 1 ran out of memory")
               for n, status, tgs in ((1024, "ok", 900.0), (2048, "oom", None))]  # fmt: skip
    seen = LongestSeen(seq_len=1024, too_long=2048, change=["parallel.sp=2"], is_measured=True)
    space = Space(candidates=[], dropped={}, num_planned=0, longest=seen)
    file = StateFile(runs_root, "tiny", ASKED, 600.0, space)
    file.write(Tuner(candidates=[], before=lengths), Trial(key="workload.seq_len=1536", rung="length"))
    async with app.run_test(size=(80, 24)) as pilot:
        await on_tune(app, pilot)
        screen = await shows(pilot, "2 trials of the longest sequence", "best so far: longest 1k trained")
        assert "length: seq_len=1536" in screen and "left of 10:00" in screen
        await pilot.press("]")
        await shows(pilot, "[trials]", "seq_len=2048: rank 1 ran out of")
        ended = msgspec.structs.replace(space, longest=msgspec.structs.replace(seen, why="2k: out of memory"))
        over = StateFile(runs_root, "tiny", ASKED, 600.0, ended)
        over.write(Tuner(candidates=[], before=lengths), None, "interrupted")
        await shows(pilot, "2 trials in 40 s: interrupted", "longest 1k trained (2k: out of memory)")


async def test_the_chosen_setting_is_saved_with_what_it_rests_on_and_copied(app, runs_root, tmp_path, copied):
    write_state(runs_root)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await on_tune(app, pilot)
        await shows(pilot, "1 long run")
        await pilot.press("y")
        await until(pilot, lambda: copied and "--set training.checkpointing=none" in copied[0])
        await pilot.press("ctrl+s")
        await shows(pilot, "Save as a preset of your own", "tuned_tiny")
        await pilot.press("enter")
        path = tmp_path / "config" / "tgsbench" / "presets" / "tuned_tiny.toml"
        await until(pilot, path.exists)
        await pilot.press("ctrl+s")
        await shows(pilot, "tuned_tiny_2")
        await pilot.press("ctrl+u", *"../x", "enter")
        await until(pilot, lambda: any("may hold letters" in n.message for n in app._notifications))
    saved = resolve("tuned_tiny").preset
    assert (saved.parallel.sp, saved.training.checkpointing, saved.workload.seq_len) == (1, "none", 512)
    assert "TGS" in saved.description and "1 long run" in saved.description


async def test_a_trial_opens_its_run_and_the_palette_its_tune(app, runs_root, add_run):
    add_run("tune-tiny-2none1")
    write_state(runs_root)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("ctrl+p", *"open tune")
        await shows(pilot, "how it stands")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TuneScreen))
        await shows(pilot, "1 long run")
        await pilot.press("]", "enter")
        await shows(pilot, "n = 24")
        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, TuneScreen))
        await pilot.press("escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("budget", "soon", "budget: soon: write 30m"),
        ("hardware-num-gpus", "two", "two is no number"),
        ("hardware-num-gpus", "3", "nearest"),
        ("workload-seq-len", "8q", "length"),
        ("engines", "fsdp3", "fsdp2"),
        ("stages", "rnus", "stages: rnus: nearest: runs"),
        ("price", "cheap", "price: cheap: write USD"),
        ("set", "parallel.spp=2", "nearest: sp"),
        ("try", "x", "tried too: x: write KEY=A,B"),
        ("try", "engine.kernel=sdpa,flsh", "flash"),
        ("name", "a/b", "may hold letters"),
    ],
)
async def test_bad_input_is_said_in_the_forms_words_and_starts_nothing(app, key, text, words):
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await ask(pilot, "tiny_cpu")
        await shows(pilot, "tgsbench tune --preset=tiny_cpu")
        await fill(pilot, key, text)
        await shows(pilot, "✗", words)
        assert "Traceback" not in text_of(app) and "--" not in text_of(app).partition("✗")[2]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: any("mend the problem" in n.message for n in app._notifications))
        assert isinstance(app.screen, TuneForm)


async def test_a_name_says_whether_it_goes_on_or_is_anothers(app, runs_root):
    asked = Asked(base="tiny_cpu", assignments=[])
    journal = Journal(runs_root, "tiny_cpu")
    journal.open(asked)
    journal.add(TrialOutcome(key="x", rung="short", status="ok", tgs=1.0))
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot, "tiny_cpu")
        await shows(pilot, "goes on after 1 trial of this name")
        await fill(pilot, "workload-seq-len", "512")
        await shows(pilot, "name: tiny_cpu is another tune's; choose another")
        await fill(pilot, "name", "short")
        await shows(pilot, "trials are real runs on this machine", "--seq-len=512", "--name=short")


async def test_what_is_edited_in_the_form_of_a_preset_is_held_fast(app):
    async with app.run_test(size=(120, 40)) as pilot:
        app.edit_preset("llama2_7b_32k")
        await shows(pilot, "Edit llama2_7b_32k")
        app.screen.query_one("#set-training-checkpointing").value = "none"
        await pilot.press("f7")
        await shows(pilot, "Tune llama2_7b_32k", "--set=training.checkpointing=none", "no real runs here")


async def test_a_tune_is_started_in_a_process_of_its_own_and_shown(app, runs_root, monkeypatch):
    """The plan of GPUs that are not here: nothing is run, and the screen says why."""
    monkeypatch.setenv("TGSBENCH_VIRTUAL_GPU_PYTHON", "/nowhere/python")
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "llama2_7b_32k")
        await fill(pilot, "engines", "fsdp2")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, TuneScreen))
        await until(pilot, lambda: "nothing was run: cannot start here" in text_of(app), tries=1200)
        await shows(pilot, "plan", "best: nothing was measured")
        assert (runs_root / "tune" / "llama2_7b_32k.log").exists()


async def test_before_its_first_trial_a_tune_shows_what_it_says_and_why_it_ended(app, runs_root, monkeypatch):
    class Saying:
        def __init__(self, words, root):
            self.name, self.began_s, self.is_alive, self.text = words.tune_name(), time.time(), True, ""

        def said(self):
            return self.text

    monkeypatch.setattr("tgsbench.tui.tuning.TuneProcess", Saying)
    write_state(runs_root, "tiny_cpu")
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot, "tiny_cpu")
        await pilot.press("ctrl+r")
        await shows(pilot, "planning every way")
        assert "1 long run" not in text_of(app), "an earlier tune of this name says nothing of this one"
        process = app._tunes["tiny_cpu"]
        process.text = "  8k: ok, TGS 512.1"
        await shows(pilot, "8k: ok, TGS 512.1")
        process.text, process.is_alive = "error: no length trains\n  try: fewer layers", False
        await shows(pilot, "✗ error: no length trains", "try: fewer layers")


async def test_a_second_tune_is_not_asked_for_while_one_goes_on(app, runs_root):
    write_state(runs_root, ended="", pid=os.getpid(), process=process_identity(os.getpid()))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("j", "U")
        await until(pilot, lambda: isinstance(app.screen, TuneScreen))
        assert any("one tune at a time" in n.message for n in app._notifications)
