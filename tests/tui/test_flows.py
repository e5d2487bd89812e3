"""Every flow by keys alone."""

import base64
import json
import shutil
import sys
import threading

import pytest
from textual import events

from tests.tui.conftest import NUM_PRESETS, shows, text_of, until, welcome
from tgsbench.events.simulate import Scenario, write_events
from tgsbench.presets import resolve
from tgsbench.system.doctor import Check
from tgsbench.tui import session
from tgsbench.tui.app import TgsApp
from tgsbench.tui.screens.dialogs import Choice, Reading
from tgsbench.tui.screens.form import PresetForm
from tgsbench.tui.widgets.log_view import LogView
from tgsbench.tui.widgets.search import Search

pytestmark = pytest.mark.asyncio


@pytest.fixture
def copied(monkeypatch):
    """What went to the clipboard by OSC 52."""
    found = []
    monkeypatch.setattr(TgsApp, "copy_to_clipboard", lambda self, text: found.append(text))
    return found


async def test_search_narrows_the_presets_as_you_type(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")
        await pilot.press("slash", *"yi 8k")
        screen = await shows(pilot, f"2 of {NUM_PRESETS} presets", "yi_34b_8k", "yi_34b_128k")
        assert "llama2_7b_8k" not in screen
        await pilot.press("escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")


async def test_no_letter_of_a_search_is_lost_however_fast_it_is_typed(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")
        for letter in "/a/b_c":
            app.post_message(events.Key("slash" if letter == "/" else letter, letter))
        await until(pilot, lambda: app.screen.query_one("#preset-search", Search).value == "a/b_c")


async def test_a_burst_of_keys_acts_on_what_it_searched_for(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")
        for key in ("slash", *"yi_34b_128k", "enter", "e"):
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await shows(pilot, "Edit yi_34b_128k")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, PresetForm))
        for key in ("slash", "x", "escape", "2"):
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await shows(pilot, "[2 Runs]")


async def test_no_letter_of_a_log_filter_is_lost_however_fast_it_is_typed(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        await shows(pilot, "log of rank [0]")
        for letter in "/s/q_c":
            opened.post_message(events.Key("slash" if letter == "/" else letter, letter))
        await until(pilot, lambda: opened.screen.query_one("#log-filter", Search).value == "s/q_c")


async def test_a_log_without_a_filter_line_keeps_the_keys(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a", "slash", "c")
        await shows(pilot, "[c Charts]")


async def test_the_detail_shows_both_published_rows_and_the_command(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"llama2_7b_32k", "enter")
        text = await shows(pilot, "2,234", "2,045", "command (y copies) tgsbench run")
        assert "TFLOPs (xtuner)  193.0" in text
        assert any("xtuner" in line and "llamafactory" in line for line in text.splitlines()), "side by side"


async def test_the_form_shows_the_command_lines_own_error_while_typing(app):
    from tgsbench.errors import TgsError

    with pytest.raises(TgsError) as refused:
        resolve("llama2_7b_32k", ["parallel.sp=6"])
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"llama2_7b_32k", "enter", "e")
        await shows(pilot, "Edit llama2_7b_32k")
        await pilot.press("tab", "tab", "backspace", "6")
        problem = refused.value.msg.splitlines()[1].strip()
        await until(
            pilot, lambda: problem in text_of(app).replace("\n", " ") or "parallel.sp=6" in text_of(app)
        )
        form = app.screen
        assert refused.value.msg in form._problem
        await pilot.press("backspace", "8")
        await shows(pilot, "dp 1 · sp 8 = 8", "--set parallel.sp=8")


async def test_the_form_checks_what_the_command_line_checks_before_a_start(app):
    async with app.run_test(size=(120, 40)) as pilot:
        app.edit_preset("tiny_cpu")
        await shows(pilot, "Edit tiny_cpu", "fits this machine")
        app.screen.query_one("#others").focus()
        await pilot.press(*"profile=hotspot")
        await shows(pilot, "no capture recipe called 'hotspot'; nearest: hotspots")
        await pilot.press("s")
        await shows(pilot, "--set profile=hotspots")
        await pilot.press("space", *"engine.name=llamafactory")
        await shows(pilot, "engine llamafactory cannot run tiny_cpu", "leave --profile out")


async def test_the_form_stays_when_what_it_asks_cannot_be_started(app):
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        app.edit_preset("llama2_7b_32k")
        await shows(pilot, "Edit llama2_7b_32k", "does not fit this machine: it needs 8 GPUs")
        app.screen.query_one("#set-measure-steps").focus()
        await pilot.press("end", "5")
        await shows(pilot, "--set measure.steps=105")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: any("--rehearse" in note.message for note in app._notifications))
        assert isinstance(app.screen, PresetForm)
        assert app.screen.assignments == ["measure.steps=105"]


async def test_the_form_has_its_keys_in_help_and_palette(app):
    async with app.run_test(size=(120, 40)) as pilot:
        app.edit_preset("tiny_cpu")
        await shows(pilot, "Edit tiny_cpu", "f1 Help")
        await pilot.press("f1")
        await shows(pilot, "Save as a preset of your own.")
        await pilot.press("G")
        await shows(pilot, "form.save")
        await pilot.press("escape", "ctrl+p")
        await shows(pilot, "Edit a preset: Save")
        await pilot.press(*"Preset: Back", "enter")
        await until(pilot, lambda: not isinstance(app.screen, PresetForm))


async def test_a_key_pressed_twice_starts_one_run(app, monkeypatch, recording):
    starts, goes_on = [], threading.Event()

    def launch(preset, root, *, rehearse):
        starts.append(preset.name)
        goes_on.wait(20)
        return session.follow(recording)

    monkeypatch.setattr(session, "launch", launch)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"tiny_cpu", "enter", "r", "r", "s")
        await until(pilot, lambda: starts)
        goes_on.set()
        await shows(pilot, "[3 Live]", "n = 24")
    assert starts == ["tiny_cpu"]


async def test_a_preset_saved_from_the_form_is_listed_and_holds_only_what_changed(app, tmp_path):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"tiny_cpu", "enter", "e")
        await shows(pilot, "Edit tiny_cpu")
        await pilot.press("tab", "tab", "tab", "tab", "end", "backspace", "backspace", "5")
        await shows(pilot, "measure.steps=5")
        app.screen.query_one("#save-as").focus()
        await pilot.press(*"mine", "ctrl+s")
        saved = tmp_path / "config" / "tgsbench" / "presets" / "mine.toml"
        await until(pilot, saved.exists)
        await pilot.press("escape")
        await shows(pilot, f"of {NUM_PRESETS + 1} presets")
        await pilot.press("slash", "escape")
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1} presets", "  mine ")
    assert saved.read_text() == 'extends = "tiny_cpu"\n\n[measure]\nsteps = 5\n'
    assert resolve("mine").preset.measure.steps == 5


async def test_a_taken_or_impossible_name_is_refused(app, tmp_path):
    async with app.run_test(size=(120, 40)) as pilot:
        app._disable_notifications = False
        app.edit_preset("tiny_cpu")
        await shows(pilot, "Edit tiny_cpu")
        app.screen.query_one("#save-as").focus()
        await pilot.press(*"../x", "ctrl+s")
        await shows(pilot, "may hold letters")
    assert not list((tmp_path / "config").rglob("x.toml"))


async def test_a_preset_that_does_not_fit_offers_what_would_work(app):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("r")
        await shows(pilot, "does not fit this machine", "32 GPUs", "Rehearse")
        await pilot.press("escape")
        assert not isinstance(app.screen, Choice)


async def test_a_broken_preset_is_listed_and_refused_with_its_problem(app, tmp_path):
    folder = tmp_path / "config" / "tgsbench" / "presets"
    folder.mkdir(parents=True)
    (folder / "broken.toml").write_text('extends = "tiny_cpu"\n[measure]\nstepz = 5\n')
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1}")
        await pilot.press("slash", *"broken", "enter")
        await shows(pilot, "with problems", "✗ bad", "stepz")
        for key in "rs":
            app.clear_notifications()
            await pilot.press(key)
            await until(pilot, lambda: any("stepz" in note.message for note in app._notifications))


async def test_the_first_start_offers_three_ways_and_plays_the_recording(runs_root, tmp_path):
    welcome(True, tmp_path)
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "recorded run", "fits this machine", "doctor")
        await pilot.press("enter")
        await shows(pilot, "REPLAY", "SIMULATED, not a measurement")
    second = TgsApp(runs_root=runs_root)
    async with second.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        assert not isinstance(second.screen, Choice)


async def test_the_welcome_can_lead_to_what_fits(runs_root, tmp_path):
    welcome(True, tmp_path)
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "Three ways")
        await pilot.press("j", "enter")
        await shows(pilot, f"1 of {NUM_PRESETS} presets", "tiny_cpu")


@pytest.fixture
def opened(runs_root, recording):
    return TgsApp(runs_root=runs_root, opens=session.follow(recording))


async def test_live_panes_by_keys(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24", "95 % 850.0 to 997.9, n = 24", "not comparable")
        await pilot.press("r")
        await shows(pilot, "x1.18", "over the median rank")
        await pilot.press("u")
        await shows(pilot, "1095 MHz")
        await pilot.press("a")
        await shows(pilot, "rank 5 throttled: thermal")
        await pilot.press("left_square_bracket")
        await shows(pilot, "[o Logs]", "simulated log of rank 0")
        await pilot.press("right_square_bracket", "right_square_bracket")
        await shows(pilot, "[c Charts]")


async def test_convention_rank_and_metric_turn(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "175.2 xtuner")
        await pilot.press("t")
        await shows(pilot, "131.6 model")
        await pilot.press("full_stop")
        await shows(pilot, "-- rank 1")
        await pilot.press("comma", "comma")
        await shows(pilot, "-- rank 7")
        await pilot.press("m")
        await shows(pilot, "data time by rank")


async def test_the_chart_cursor_reads_off_values(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, ">TGS  step 29")
        await pilot.press("g")
        await shows(pilot, ">TGS  step 0")
        await pilot.press("l", "l")
        await shows(pilot, ">TGS  step 2")
        await pilot.press("G")
        await shows(pilot, ">TGS  step 29")


async def test_the_first_error_in_any_log_is_found(runs_root, add_run):
    run = add_run("broken")
    (run.log_dir / "rank00005.log").write_text("fine\nfine\nRuntimeError: it broke\nafter\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("e")
        await shows(pilot, "log of rank  0  1  2  3  4 [5] 6  7", "3!RuntimeError: it broke")
        log = app.screen.query_one("#log", LogView)
        assert log.cursor_line == "RuntimeError: it broke"
        await pilot.press("slash", *"fine", "enter")
        await shows(pilot, "2 lines with 'fine'")
        await pilot.press("e")
        await shows(pilot, "RuntimeError: it broke")
        assert log.cursor_line == "RuntimeError: it broke"
        assert not app.screen.query_one("#log-filter").display


async def test_a_click_on_a_rank_shows_its_log(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        line = await line_of(pilot, "log of rank [0]")
        await pilot.click("#log-line", offset=(line.index(" 6 ") + 1, 0))
        await shows(pilot, " 5 [6] 7 ", "simulated log of rank 6")


async def test_a_click_on_its_name_opens_a_pane(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        line = await line_of(pilot, "u GPUs")
        await pilot.click("#pane-line", offset=(line.index("u GPUs"), 0))
        await shows(pilot, "[u GPUs]", "1095 MHz")
        await pilot.press("4")
        line = await line_of(pilot, "e Kernels")
        await pilot.click("#profile-panes-line", offset=(line.index("e Kernels"), 0))
        await shows(pilot, "[e Kernels]")


async def test_a_click_closes_a_dialog(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("f1")
        line = await line_of(pilot, "esc close")
        y = text_of(opened).splitlines().index(line)
        await pilot.click(offset=(line.index("esc close") + 2, y))
        await until(pilot, lambda: not isinstance(opened.screen, Reading))


async def line_of(pilot, words):
    """The line of the screen that holds these words."""
    return next(line for line in (await shows(pilot, words)).splitlines() if words in line)


async def test_the_log_filter_works_as_you_type_and_escape_lifts_it(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o", "slash", *"packing")
        screen = await shows(pilot, "[data] packing", "1 lines with 'packing'")
        assert "process group" not in screen
        await pilot.press("escape")
        await shows(pilot, "process group")


async def test_question_mark_explains_the_focused_figure(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        opened.screen.query_one("#big").focus()
        await pilot.press("question_mark")
        await shows(pilot, "real tokens of all ranks / (GPUs", "measured steps n", "24")
        await pilot.press("escape")
        opened.screen.query_one("#tflops").focus()
        await pilot.press("question_mark")
        await shows(pilot, "xtuner convention", "FLOPs per token")


async def test_tab_reaches_every_figure(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        reached = set()
        for _ in range(20):
            await pilot.press("tab")
            reached.add(str(getattr(opened.focused, "figure", "")))
        figures = {"tgs", "tgs_ci", "tflops:xtuner", "step_s", "mem", "mfu", "eta", "loss", "verdict"}
        assert figures <= reached


async def test_a_verdict_that_is_cut_off_is_told_in_full(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        assert "published A100-SXM4-80GB" not in await shows(pilot, "n = 24", "GPU simulated")
        opened.screen.query_one("#verdict-line").focus()
        await shows(pilot, "> ≠ not comparable")
        await pilot.press("question_mark")
        await shows(pilot, "Verdict against the published row", "A100-SXM4-80GB")
        await pilot.press("G")
        await shows(pilot, "llamafactory")


async def test_alerts_that_are_cut_off_stand_in_the_notes(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a")
        await shows(pilot, "rank 5 (node00) is slow: 1.18× the median rank", "rank 5 throttled: thermal")


async def test_the_notes_tell_how_a_run_failed_and_what_to_try(runs_root, add_run):
    failure = {"kind": "oom", "reason": "CUDA out of memory", "rank": 7, "hint": "use sp 16"}
    failure["forecast"] = "the plan expected 61 GiB"
    failure["hint"] += ", or selective checkpointing: the attention output is kept, one recomputes the rest"
    run = add_run("failed", status="oom", failure=failure)
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "✗ oom")
        await pilot.press("a")
        await shows(pilot, "✗ oom (rank 7): CUDA out of memory", "try: use sp 16", "the rest")
        await shows(pilot, "the plan expected 61 GiB")


async def test_steps_to_come_include_the_profiled_ones(recording):
    view = session.follow(recording).view
    measure = view.plan.preset.measure
    assert view.plan.total_steps == measure.warmup + measure.steps + view.plan.num_profile_steps == 30
    assert view.plan.num_profile_steps > 0


async def test_replay_keys(runs_root, recording):
    app = TgsApp(runs_root=runs_root, opens=session.replay(recording, 60.0))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "REPLAY ▶ 60×")
        await pilot.press("space")
        await shows(pilot, "paused")
        await pilot.press("plus")
        await pilot.press("space")
        await shows(pilot, "▶ 120×")
        await pilot.press("minus", "minus")
        await shows(pilot, "▶ 30×")
        for _ in range(11):
            await pilot.press("L")
        await shows(pilot, "■ end", "step 30/30")
        await pilot.press("R")
        await shows(pilot, "▶ 30×")


async def test_runs_filter_mark_compare_and_copy(app, add_run, copied):
    add_run("one")
    add_run("two", checkpointing="selective")
    add_run("three", status="oom", failure={"kind": "oom", "reason": "CUDA out of memory"})
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs", "✗ oom")
        await pilot.press("j")
        await shows(pilot, "three: CUDA out of memory")
        await pilot.press("slash", *"ok", "enter")
        await shows(pilot, "2 of 3 runs")
        await pilot.press("g", "space", "space")
        await shows(pilot, "2 marked", "[1]", "[2]")
        await pilot.press("c")
        screen = await shows(pilot, "base", "≠ checkpointing", "selective", "full")
        assert "  engine" in screen
        await pilot.press("d")
        await until(pilot, lambda: "engine " not in text_of(app))
        await pilot.press("y")
        await pilot.press("J")
        await pilot.press("b", "escape")
        await shows(pilot, "2 of 3 runs")
    assert copied[0].startswith("|  | ")
    assert "selective" in copied[0]
    assert copied[1].lstrip().startswith("[")


async def test_copy_menu_offers_command_markdown_and_json(app, add_run, copied):
    add_run("a|b")
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs")
        for downs in (0, 1, 2):
            await pilot.press("y")
            await shows(pilot, "Copy this run as")
            await pilot.press(*["j"] * downs, "enter")
            await until(pilot, lambda n=downs: len(copied) == n + 1)
    assert copied[0].startswith("tgsbench run --preset ")
    assert "922.2" in copied[1]
    assert '"run_id": "a|b"' in copied[2]


async def test_enter_opens_a_run_and_p_plays_it(app, add_run):
    add_run("one")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs")
        await pilot.press("enter")
        await shows(pilot, "[3 Live]", "n = 24")
        await pilot.press("2")
        await shows(pilot, "[2 Runs]", "1 of 1 runs")
        await pilot.press("p")
        await shows(pilot, "REPLAY")


async def test_profile_tables_ranks_and_copy(opened, copied):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("p")
        await shows(pilot, "[s Shares]", "attention backward", "all-to-all")
        await pilot.press("right_square_bracket", "j")
        name = "flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel"
        await shows(pilot, f"{name}  (attention backward, 166.0 of", "312 TFLOPs)")
        await pilot.press("right_square_bracket")
        await shows(pilot, "of 300")
        await pilot.press("right_square_bracket")
        await shows(pilot, "SIMULATED")
        await pilot.press("full_stop")
        await shows(pilot, "rank 0")
        await pilot.press("y")
    assert '"shares"' in copied[0]


async def test_the_doctor_lists_checks_and_tells_the_chosen_one_in_full(app, monkeypatch):
    remedy = "look at the firewall of the loopback interface, " * 2 + "and ask again"
    checks = [Check("python", "ok", "3.11.7"), Check("gloo", "warning", "two ranks cannot talk", remedy)]
    monkeypatch.setattr("tgsbench.system.doctor.run_checks", lambda root: checks)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("5")
        await shows(pilot, "python", "✓ ok", "! warn")
        await pilot.press("j")
        await shows(pilot, "gloo: two ranks cannot talk   try: look", "and ask again")


async def test_a_comparison_that_is_wider_than_the_screen_says_so(app, add_run):
    for name in ("one", "two", "three"):
        add_run(name)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("space", "space", "space", "c")
        await shows(pilot, "base: two", "l and h show all 3 columns")
        await pilot.press("l", "l", "l", "l", "l", "l", "l", "l")
        await until(pilot, lambda: app.screen.query_one("#compare-table").scroll_x > 0)


async def test_the_palette_finds_actions_presets_and_runs(app, add_run):
    add_run("[bold]odd[bold]")
    async with app.run_test(size=(100, 30)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("ctrl+p", *"rehearse")
        await shows(pilot, "Presets: Rehearse")
        await pilot.press("escape", "ctrl+p", *"yi_34b_8k")
        await shows(pilot, "Preset: yi_34b_8k")
        await pilot.press("enter")
        await shows(pilot, "Edit yi_34b_8k")
        await pilot.press("escape", "ctrl+p", *"odd")
        await shows(pilot, "Run: [bold]odd[bold]")
        await pilot.press("enter")
        await shows(pilot, "n = 24")


async def test_the_palette_goes_to_the_screen_of_an_action(app, add_run):
    add_run("one")
    async with app.run_test(size=(100, 30)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("ctrl+p", *"runs: mark")
        await shows(pilot, "Runs: Mark  [space]", "This goes to Runs")
        await pilot.press("enter")
        await shows(pilot, "[2 Runs]", "1 of 1 runs")


async def test_the_palette_has_the_actions_of_a_comparison(app, add_run, copied):
    add_run("one")
    add_run("two")
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await shows(pilot, "2 of 2 runs")
        await pilot.press("space", "space", "c")
        await shows(pilot, "base: two")
        await pilot.press("ctrl+p", *"markdown")
        await shows(pilot, "Compare: Markdown  [y]")
        await pilot.press("enter")
        await until(pilot, lambda: copied)
    assert copied[0].startswith("|  | two | one |")


async def test_help_lists_the_keys_of_the_screen(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("f1")
        await shows(pilot, "Run the chosen preset.", "Everywhere")
        assert isinstance(app.screen, Reading)


async def test_a_theme_is_remembered(runs_root):
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        app.theme = "nord"
        await pilot.pause()
    again = TgsApp(runs_root=runs_root)
    async with again.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert again.theme == "nord"


async def test_the_screen_is_exported_as_svg(app, runs_root):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("f4")
        await until(pilot, lambda: list(runs_root.glob("*.svg")))
    picture = next(runs_root.glob("*.svg")).read_text()
    assert "<svg" in picture
    assert "@font-face" not in picture
    assert "url(http" not in picture


async def test_the_clipboard_is_reached_by_osc_52(app):
    written = []
    async with app.run_test(size=(80, 24)) as pilot:
        app._driver.write = written.append
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("y")
        await pilot.pause()
    sent = "".join(written)
    assert "\x1b]52;c;" in sent
    payload = sent.split("\x1b]52;c;")[1].split("\a")[0]
    assert base64.b64decode(payload).decode().startswith("tgsbench run --preset")


async def test_what_is_copied_lies_in_a_file_too_where_no_program_takes_it(app, tmp_path):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("y")
        file = tmp_path / "config" / "tgsbench" / "copied.txt"
        await until(pilot, lambda: any(str(file) in note.message for note in app._notifications))
    assert file.read_text().startswith("tgsbench run --preset")


async def test_tmux_gets_what_is_copied_since_it_drops_osc_52(app, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "tmux"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$*" = "load-buffer -w -" ] && exec cat > {tmp_path}/buffer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("y")
        await until(pilot, lambda: any("tmux's buffer" in note.message for note in app._notifications))
    assert (tmp_path / "buffer").read_text().startswith("tgsbench run --preset")


async def test_q_leaves(app):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("q")
    assert app.return_code == 0


@pytest.mark.asyncio
async def test_the_live_view_shows_what_was_predicted_beside_what_is_measured(runs_root, add_run):
    run = add_run("forecast")
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["prediction"] = {"tgs": {"predicted": 900.0, "low": 800.0, "high": 1000.0}}
    (run.path / "run.json").write_text(json.dumps(manifest))
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(120, 40)) as pilot:
        text = await shows(pilot, "predicted 900.0 (800.0 to 1,000), measured 1.02×")
        assert "xtuner published 948.6 │ predicted" in text


SERVER = (
    "import sys, time; print('made 8 files', flush=True);"
    "print('open http://127.0.0.1:6123/#pytorch_profiler', file=sys.stderr, flush=True); time.sleep(600)"
)


@pytest.fixture
def traced(runs_root, add_run):
    run = add_run("traced")
    (run.path / "profile" / "rank00000.pt.trace.json.gz").write_bytes(b"")
    return TgsApp(runs_root=runs_root, opens=session.follow(run))


async def test_t_starts_tensorboard_shows_its_address_and_it_ends_with_the_ui(traced, monkeypatch):
    monkeypatch.setattr("tgsbench.tui.tensorboard.command", lambda run: [sys.executable, "-c", SERVER])
    async with traced.run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await shows(pilot, "[s Shares]")
        await pilot.press("t")
        await shows(pilot, "TensorBoard: http://127.0.0.1:6123/#pytorch_profiler")
        server = traced.tensorboard
        assert server.is_alive
        await pilot.press("t")
        assert traced.tensorboard is server
    assert not server.is_alive


async def test_a_tensorboard_that_does_not_start_says_why(traced, monkeypatch):
    refusal = "import sys; sys.exit('error: no command called tensorboard')"
    monkeypatch.setattr("tgsbench.tui.tensorboard.command", lambda run: [sys.executable, "-c", refusal])
    async with traced.run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await shows(pilot, "[s Shares]")
        await pilot.press("t")
        await shows(pilot, "TensorBoard did not start: no command called tensorboard")


async def test_long_log_lines_scroll_sideways_by_keys(runs_root, add_run):
    run = add_run("wordy")
    (run.log_dir / "rank00000.log").write_text("x" * 200 + " the end\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        await shows(pilot, "xxxx")
        await pilot.press("l", "l", "l", "l")
        await shows(pilot, "the end")
        await pilot.press("h", "h", "h", "h")
        await shows(pilot, "1 xxxx")


async def test_a_supervisors_warning_names_no_rank(runs_root, add_run):
    run = add_run("warned")
    line = '{"type":"warn","code":"disturbed_cpu","msg":"busy","hint":"","v":1,"t":1,"rank":-2,"seq":0}'
    (run.events_dir / "node00001.jsonl").write_text(line + "\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a")
        await shows(pilot, "warning: supervisor of node 1: disturbed_cpu")


async def test_a_theme_is_chosen_by_keys(app):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("f3", *"gruvbox")
        await shows(pilot, "gruvbox")
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "gruvbox")


async def test_the_mouse_goes_to_a_mode_and_a_row(app, add_run):
    add_run("one")
    add_run("two")
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.click(".mode-bar", offset=(text_of(app).splitlines()[0].index("2 Runs"), 0))
        await shows(pilot, "2 of 2 runs")
        row = next(y for y, line in enumerate(text_of(app).splitlines()) if "  one" in line)
        await pilot.click(offset=(30, row))
        await pilot.click(offset=(30, row))
        await shows(pilot, "[3 Live]", "n = 24")


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_straggler_among_64_ranks_stands_out_without_colour(runs_root, add_run, size):
    run = add_run("many")
    scenario = Scenario(world=64, steps=12, straggler=37, gpu_period_s=0, heartbeat_s=0)
    shutil.rmtree(run.events_dir)
    write_events(run.path, scenario)
    manifest = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(manifest | {"world_size": 64}))
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "rank 37 (node04) is slow: 1.18")
        await pilot.press("r")
        screen = await shows(pilot, "over the median rank:", "x")
        view = app.screen.query_one("#heat")
        rows = [view.render_line(y).text for y in range(2, 10)]
        marked = {row.index("x") for row in rows if "x" in row}
        assert len(marked) == 1, screen
