"""One table feeds keys, footer, help and palette."""

import inspect

import pytest
from textual.widgets._footer import FooterKey

from tests.tui.conftest import NUM_PRESETS, shows, text_of, until
from tgsbench.tui.actions import ACTIONS, RESERVED_KEYS, bindings, check_keymap, of_scope
from tgsbench.tui.app import TgsApp
from tgsbench.tui.screens.compare import CompareScreen
from tgsbench.tui.screens.dialogs import Ask, Choice, Options, Page, Reading
from tgsbench.tui.screens.doctor import DoctorScreen
from tgsbench.tui.screens.forecast import ForecastScreen
from tgsbench.tui.screens.form import PresetForm
from tgsbench.tui.screens.live import LiveScreen
from tgsbench.tui.screens.presets import PresetsScreen
from tgsbench.tui.screens.profile import ProfileScreen
from tgsbench.tui.screens.runs import RunsScreen
from tgsbench.tui.screens.tune import TuneScreen
from tgsbench.tui.screens.tune_form import TuneForm
from tgsbench.tui.widgets.chart import ChartView
from tgsbench.tui.widgets.log_view import LogView
from tgsbench.tui.widgets.table import ListTable

TARGETS = {
    "app": [TgsApp], "presets": [PresetsScreen], "form": [PresetForm], "live": [LiveScreen],
    "replay": [LiveScreen], "profile": [ProfileScreen], "runs": [RunsScreen], "compare": [CompareScreen],
    "doctor": [DoctorScreen], "list": [ListTable], "log": [LogView], "chart": [ChartView],
    "modal": [Choice, Reading, Ask], "forecast": [ForecastScreen],
    "tuneform": [TuneForm], "tune": [TuneScreen],
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.name)
def test_every_action_exists_where_it_is_bound(action):
    method = action.method.partition("(")[0]
    for target in TARGETS[action.scope]:
        assert callable(getattr(target, f"action_{method}", None)), f"{target.__name__}.action_{method}"
        assert any(b.id == action.name for b in target.BINDINGS if hasattr(b, "id")), "bound from the table"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.name)
def test_no_default_key_is_tmuxs_or_screens_prefix(action):
    assert not RESERVED_KEYS & {key.strip() for key in action.keys.split(",")}


def test_no_widget_of_ours_binds_a_reserved_key():
    ours = [*TARGETS["modal"], *(t for targets in TARGETS.values() for t in targets)]
    keys = {
        key
        for cls in ours
        for b in cls.BINDINGS
        for key in getattr(b, "key", b[0] if isinstance(b, tuple) else "").split(",")
    }
    assert not RESERVED_KEYS & keys


def test_defaults_have_no_clash_within_a_scope():
    assert check_keymap({}) == []


def test_a_live_key_never_hides_a_global_one():
    taken = {key for action in of_scope("app") for key in action.keys.split(",")}
    for scope in ("presets", "live", "replay", "profile", "runs", "doctor", "tune"):
        assert not taken & {key for action in of_scope(scope) for key in action.keys.split(",")}, scope


def test_problems_of_a_keymap_name_the_nearest_action_and_the_clash():
    problems = check_keymap({"live.stopp": "x", "live.copy": "s", "runs.mark": " "})
    assert any("live.stopp" in p and "live.stop" in p for p in problems)
    assert any("taken by both live.stop and live.copy" in p for p in problems)
    assert any("runs.mark: no key" in p for p in problems)


@pytest.mark.parametrize(
    ("keymap", "problem"),
    [
        ({"live.stop": "q"}, "q: taken by both app.quit and live.stop"),
        ({"presets.edit": "/"}, "taken by both presets.search and presets.edit"),
        ({"replay.pause": "s"}, "s: taken by both live.stop and replay.pause"),
        ({"live.stop": "ctrl+kk"}, "no key is called 'ctrl+kk'; nearest: ctrl+k"),
        ({"live.stop": "Ctrl+K"}, "no key is called 'Ctrl+K'; nearest: ctrl+k"),
        ({"live.stop": "pgup"}, "no key is called 'pgup'; nearest: pageup"),
    ],
)
def test_a_keymap_that_would_not_work_is_refused(keymap, problem):
    assert any(problem in found for found in check_keymap(keymap)), check_keymap(keymap)


@pytest.mark.parametrize("key", ["ctrl+k", "é", "slash", "f13", "alt+x", "underscore", "!", "X, ctrl+x"])
def test_a_key_that_a_terminal_can_send_is_taken(key):
    assert check_keymap({"live.stop": key}) == []


def test_every_action_has_a_sentence_of_help():
    assert all(a.help and a.label for a in ACTIONS)
    assert len({a.name for a in ACTIONS}) == len(ACTIONS)
    assert len(bindings("live")) == len(of_scope("live"))


def test_public_actions_of_screens_are_all_in_the_table():
    listed = {(a.scope, a.method.partition("(")[0]) for a in ACTIONS}
    for scope in ("presets", "live", "profile", "runs", "compare", "doctor", "tune", "tuneform"):
        screen = TARGETS[scope][0]
        own = {n[7:] for n, _ in inspect.getmembers(screen, inspect.isfunction)
               if n.startswith("action_") and n in screen.__dict__}  # fmt: skip
        scopes = {scope, "replay"} if scope == "live" else {scope}
        assert own <= {method for s, method in listed if s in scopes}


@pytest.mark.asyncio
async def test_every_screens_footer_fits_80_columns(app):
    async with app.run_test(size=(80, 24)) as pilot:
        for key in "12345":
            await pilot.press(key)
            await until(pilot, lambda: len(app.screen.query(FooterKey)) > 2 and app.screen.is_active)
            await pilot.pause()
            ends = {entry.description: entry.region.right for entry in app.screen.query(FooterKey)}
            assert ends["Quit"] == max(ends.values()) <= 80, ends


@pytest.mark.asyncio
async def test_a_remapped_key_works_and_shows_in_footer_and_help(runs_root, tmp_path):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.write_text('welcomed = true\n[keys]\n"presets.search" = "ctrl+f"\n')
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}", "^f Search")
        await pilot.press("ctrl+f", *"yi")
        await shows(pilot, f"4 of {NUM_PRESETS}")
        await pilot.press("escape", "f1")
        await shows(pilot, "ctrl+f")


@pytest.mark.asyncio
async def test_a_remapped_motion_moves_in_lists_and_dialogs(runs_root, tmp_path):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.write_text('welcomed = true\n[keys]\n"list.cursor_down" = "n"\n"list.scroll_bottom" = "!"\n')
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}", "command (y copies) tgsbench run --preset")
        await pilot.press("n")
        await shows(pilot, "--preset llama2_70b_32k")
        await pilot.press("f2")
        await shows(pilot, "Three ways")
        options = app.screen.query_one(Options)
        await pilot.press("n")
        await until(pilot, lambda: options.highlighted == 1)
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: options.highlighted == 3)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Choice))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Reading))
        page = app.screen.query_one(Page)
        await pilot.press("n")
        await until(pilot, lambda: page.scroll_y > 0)


@pytest.mark.asyncio
async def test_a_broken_settings_file_is_reported_and_left_alone(runs_root, tmp_path):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.write_text('welcomed = true\n[keys]\n"live.nothing" = "x"\n')
    before = settings.read_text()
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, "tui.toml")  # where the lines break depends on the folder's name
        assert any("live.nothing: no such action" in note.message for note in app._notifications)
        app.theme = "nord"
        await pilot.pause()
        assert "Search" in text_of(app)
    assert settings.read_text() == before


@pytest.mark.asyncio
async def test_a_theme_is_written_into_the_settings_as_the_user_wrote_them(runs_root, tmp_path):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.write_text('# mine\nwelcomed = true  # seen\n\n[keys]\n"live.stop" = "ctrl+k"  # not s\n')
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        app.theme = "nord"
        await pilot.pause()
    text = settings.read_text()
    assert text.startswith('theme = "nord"\n# mine\nwelcomed = true  # seen\n')
    assert text.endswith('[keys]\n"live.stop" = "ctrl+k"  # not s\n')


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('theme = "nrod"\n', "no theme called 'nrod'; nearest: nord"),
        ("keys = 3\n", "[keys] must be a table"),
        ('themes = "nord"\n', "themes: no such setting; nearest: theme"),
    ],
)
async def test_a_setting_that_is_wrong_is_named_and_the_file_left_alone(runs_root, tmp_path, text, problem):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.write_text(text)
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.pause()
        assert any(problem in note.message for note in app._notifications)
        app.theme = "gruvbox"
        await pilot.pause()
    assert settings.read_text() == text
