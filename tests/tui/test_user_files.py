"""Whatever a user's files hold, the terminal UI starts, and names the file that it cannot read."""

import os

import pytest

from tests.tui.conftest import NUM_PRESETS, shows, text_of, until
from tgsbench.presets import catalog
from tgsbench.tui.app import TgsApp

pytestmark = pytest.mark.asyncio
CACHED = (catalog.load_references, catalog.load_gpus, catalog.load_links, catalog.load_constants)


@pytest.fixture(autouse=True)
def _fresh_tables():
    for load in CACHED:
        load.cache_clear()
    yield
    for load in CACHED:
        load.cache_clear()


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "config" / "tgsbench"
    for kind in KINDS:
        (folder / "presets" / kind).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("is_typed", [True, False], ids=["typed", "left to the form"])
async def test_a_preset_saved_under_the_name_that_the_form_suggests_is_listed_with_its_model(app, is_typed):
    async with app.run_test(size=(120, 60)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        app.edit_preset("llama2_70b_8k")
        await shows(pilot, "Edit llama2_70b_8k")
        app.screen.query_one("#save-as").focus()
        suggested = app.screen.query_one("#save-as").placeholder
        await pilot.press(*(suggested if is_typed else ""), "ctrl+s")
        await until(pilot, lambda: (catalog.config_dir() / "presets" / "my_llama2_70b_8k.toml").exists())
        await pilot.press("escape")
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1}")
    again = TgsApp(runs_root=app.runs_root)
    async with again.run_test(size=(120, 60)) as pilot:
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1}")
        lines = [line.lstrip(" •").split()[0] for line in text_of(again).splitlines() if line.strip(" •")]
        assert lines.count("my_llama2_70b_8k") == lines.count("Llama2-70B") == 1


ODD_NAMES = ["#llama2_7b", "[red", "a [bold]b", "\x1b]0;x\x07", "\udcff", "with space", "llama2_7b\nx"]


async def test_presets_of_any_name_that_a_file_can_have_are_listed(app, config):
    for name in ODD_NAMES:
        path = os.fsencode(config / "presets") + b"/" + os.fsencode(name) + b".toml"
        with open(path, "w") as file:
            file.write('extends = "llama2_7b_8k"\n')
    async with app.run_test(size=(120, 90), notifications=True) as pilot:
        shown = await shows(pilot, f"of {NUM_PRESETS + len(ODD_NAMES)} presets", "[red", "a [bold]b")
        assert "\x1b" not in shown
        assert not app._notifications


DAMAGE = {
    "not TOML": b"= [",
    "no text": b"\xff\xfe\x00",
    "deep": b"a = " + b"[" * 60_000,
    "a long key": b".".join([b"a"] * 60_000) + b" = 1\n",
    "a long table name": b"[" + b".".join([b"a"] * 60_000) + b"]\nb = 1\n",
    "a number of 5,000 digits": b"name = " + b"1" * 5000,
    "wrong types": b"name = [1]\nmodel = 3\nmatches = 5\nrows = 1\n",
    "absurd numbers": b'extends = "tiny_cpu"\nmodel.num_layers = 1' + b"0" * 400,
    "heads without end": b'extends = "tiny_cpu"\nhardware.num_gpus = 1000000000000\n'
    b"model.num_query_heads = 1000000000000\nmodel.num_kv_heads = 1\n",
}
KINDS = ("models", "hardware", "links", "constants", "references")
PLACES = ("presets", *(f"presets/{kind}" for kind in KINDS))


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_a_damaged_file_is_named_and_the_rest_is_there(app, config, damage):
    for place in PLACES:
        (config / place / "hurt.toml").write_bytes(DAMAGE[damage])
    (config / "engines.toml").write_bytes(DAMAGE[damage])
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, f"{NUM_PRESETS + 1} of {NUM_PRESETS + 1} presets")
        await until(pilot, lambda: len(app._notifications) == 4)
        told = " ".join(note.message for note in app._notifications)
        assert all(f"{place}/hurt.toml" in told for place in PLACES[2:])
        await pilot.press("slash", *"hurt", "enter")
        await shows(pilot, "with problems", "✗ bad")
        await pilot.press("r")
        await pilot.press("e")
        await pilot.pause()
        await pilot.press("escape", "2", "1")
        await shows(pilot, "1 of")


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to itself", "unreadable", "no text"])
async def test_settings_that_are_no_file_hold_nobody_up(runs_root, config, kind):
    path = config / "tui.toml"
    path.unlink()
    make = {
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "link to itself": lambda: path.symlink_to(path),
        "unreadable": lambda: (path.write_text("theme = 1"), path.chmod(0)),
        "no text": lambda: path.write_bytes(b"\xff\xfe"),
    }
    make[kind]()
    (config / "presets").rename(config / "kept")
    (config / "presets").symlink_to(config / "presets")
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.pause()
        await until(pilot, lambda: len(app.screen_stack) > 1 or "presets" in text_of(app))
        await pilot.press("escape")
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS} presets")


async def test_an_own_preset_is_marked_counted_and_found(app, config):
    (config / "presets" / "mine.toml").write_text('extends = "tiny_cpu"\n')
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"of {NUM_PRESETS + 1} presets", "• 1 your own")
        await pilot.press("slash", *"own", "enter")
        await shows(pilot, f"1 of {NUM_PRESETS + 1}", "• mine", "your own:", "mine.toml")
