"""Every flow by keys alone; those of a run that is open are in test_live_flows.py."""

import base64
import threading

import pytest
from textual import events

from tests.tui.conftest import NUM_PRESETS, line_of, shows, text_of, until, welcome
from tgsbench.live import session
from tgsbench.presets import resolve
from tgsbench.results import index
from tgsbench.system.doctor import DoctorCheck
from tgsbench.tui import launching
from tgsbench.tui.app import TgsApp
from tgsbench.tui.screens.dialogs import Choice, Reading
from tgsbench.tui.screens.form import PresetForm
from tgsbench.tui.widgets.search import Search

pytestmark = pytest.mark.asyncio


async def test_search_narrows_the_presets_as_you_type(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")
        await pilot.press("slash", *"yi 8k")
        screen = await shows(pilot, f"2 of {NUM_PRESETS} presets", "yi_34b_8k", "yi_34b_128k")
        assert "llama2_7b_8k" not in screen
        await pilot.press("escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")


async def test_a_search_without_a_hit_shows_no_preset(app):
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")
        await pilot.press("slash", *"yizzz", "enter")
        screen = await shows(pilot, f"0 of {NUM_PRESETS} presets", "no preset matches")
        assert "command (y copies)" not in screen
        await pilot.press("slash", "escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets", "command (y copies)")


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


async def test_the_detail_shows_both_published_rows_and_the_command(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"llama2_7b_32k", "enter")
        text = await shows(pilot, "2234.2", "2045.4", "command (y copies) tgsbench run")
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
        await pilot.press("tab", "tab", "tab", "tab", "backspace", "6")
        problems = [line.strip().partition(": ")[2] for line in refused.value.msg.splitlines()[1:]]
        await shows(pilot, problems[0])
        form = app.screen
        assert form._problem.splitlines() == [f"✗ sp: {problem}" for problem in problems]
        assert form.query_one("#set-parallel-sp").has_class("-wrong")
        assert len(form.query(".-wrong")) == 1
        await pilot.press("backspace", "8")
        await shows(pilot, "dp 1 · sp 8 = 8", "--set parallel.sp=8")
        assert not form.query("Input.-wrong")


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

    monkeypatch.setattr(launching, "launch", launch)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"tiny_cpu", "enter", "r", "r", "R")
        await until(pilot, lambda: starts)
        goes_on.set()
        await shows(pilot, "[3 Live]", "n = 24")
    assert starts == ["tiny_cpu"]


async def test_a_preset_saved_from_the_form_is_listed_and_holds_only_what_changed(app, tmp_path):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("slash", *"tiny_cpu", "enter", "e")
        await shows(pilot, "Edit tiny_cpu")
        await pilot.press(*["tab"] * 9, "end", "backspace", "backspace", "5")
        await shows(pilot, "measure.steps=5")
        app.screen.query_one("#save-as").focus()
        await pilot.press(*"mine", "ctrl+s")
        saved = tmp_path / "config" / "tgsbench" / "presets" / "mine.toml"
        await until(pilot, saved.exists)
        await pilot.press("escape")
        await shows(pilot, f"of {NUM_PRESETS + 1} presets")
        await pilot.press("slash", "escape")
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1} presets", "• mine ", "• 1 your own")
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
        for key in "rRf":
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


async def test_a_click_closes_a_dialog(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("f1")
        line = await line_of(pilot, "esc close")
        y = text_of(opened).splitlines().index(line)
        await pilot.click(offset=(line.index("esc close") + 2, y))
        await until(pilot, lambda: not isinstance(opened.screen, Reading))


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
        await pilot.press("g", "x", "x")
        await shows(pilot, "2 marked", "[1]", "[2]")
        await pilot.press("v")
        screen = await shows(pilot, "base", "≠ checkpointing", "selective", "full")
        assert "  engine" in screen
        await pilot.press("H")
        await until(pilot, lambda: "engine " not in text_of(app))
        await pilot.press("y")
        await pilot.press("J")
        await pilot.press("b", "escape")
        await shows(pilot, "2 of 3 runs")
    assert copied[0].startswith("|  | ")
    assert "selective" in copied[0]
    assert copied[1].lstrip().startswith("[")


async def test_the_list_of_runs_reads_only_what_changed(app, add_run, monkeypatch):
    add_run("one")
    add_run("two")
    read = []
    summarize = index.summarize
    monkeypatch.setattr(index, "summarize", lambda run: read.append(run.run_id) or summarize(run))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "2 of 2 runs")
        add_run("three")
        await pilot.press("1", "2")
        await shows(pilot, "3 of 3 runs")
    assert sorted(read) == ["one", "three", "two"]


async def test_a_run_that_cannot_be_read_is_one_row_of_the_list(app, add_run, monkeypatch):
    add_run("one")
    add_run("two")
    summarize = index.summarize
    monkeypatch.setattr(index, "summarize", lambda run: 1 // (run.run_id != "two") and summarize(run))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "2 of 2 runs", "✓ ok", "✗ damaged")
        await shows(pilot, "two: ", "ZeroDivisionError")


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
        await pilot.press("P")
        await shows(pilot, "REPLAY")


async def test_the_doctor_lists_checks_and_tells_the_chosen_one_in_full(app, monkeypatch):
    remedy = "look at the firewall of the loopback interface, " * 2 + "and ask again"
    checks = [
        DoctorCheck("python", "ok", "3.11.7"),
        DoctorCheck("gloo", "warning", "two ranks cannot talk", remedy),
    ]
    monkeypatch.setattr("tgsbench.system.doctor.iter_checks", lambda root, **_: [(0, checks)])
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("5")
        await shows(pilot, "python", "✓ ok", "! warn")
        await pilot.press("j")
        await shows(pilot, "gloo: two ranks cannot talk   try: look", "and ask again")


async def test_the_cursor_stays_on_what_a_search_found_once_it_is_cleared(app, add_run):
    for name in ("one", "two", "three"):
        add_run(name)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "presets, ")
        await pilot.press("slash", *"yi_34b_128k", "escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets", "--preset yi_34b_128k")
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("slash", *"one", "escape")
        await shows(pilot, "3 of 3 runs")
        await until(pilot, lambda: app.screen.selected.run_id == "one")


async def test_the_doctor_shows_each_check_as_it_ends(app, monkeypatch):
    go_on = threading.Event()

    def slowly(root, **_):
        yield 3, [DoctorCheck("gloo", "failure", "two ranks cannot talk", "look at the firewall")]
        assert go_on.wait(60)
        yield 0, [DoctorCheck("python", "ok", "3.11.7")]

    monkeypatch.setattr("tgsbench.system.doctor.iter_checks", slowly)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("5")
        try:
            await shows(pilot, "two ranks cannot talk", "checking:")
        finally:
            go_on.set()
        text = await shows(pilot, "python", "1 of 2 checks want attention")
        assert text.index("python") < text.index("gloo"), "in the order of the whole list"
        assert "gloo: two ranks cannot talk" in text, "the cursor stays on its check"


async def test_a_comparison_that_is_wider_than_the_screen_says_so(app, add_run):
    for name in ("one", "two", "three"):
        add_run(name)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("x", "x", "x", "v")
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
        await shows(pilot, "Runs: Mark  [x]", "This goes to Runs")
        await pilot.press("enter")
        await shows(pilot, "[2 Runs]", "1 of 1 runs")


async def test_the_palette_has_the_actions_of_a_comparison(app, add_run, copied):
    add_run("one")
    add_run("two")
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await shows(pilot, "2 of 2 runs")
        await pilot.press("x", "x", "v")
        await shows(pilot, "base: two")
        await pilot.press("ctrl+p", *"compare: copy")
        await shows(pilot, "Compare: Copy  [y]")
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
