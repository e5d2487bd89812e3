"""--ascii, NO_COLOR, and what the process may not import."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

import tgsbench
from tests.tui.conftest import NUM_PRESETS, SIZES, shows, text_of, until
from tgsbench.cli import tui as cli_tui
from tgsbench.errors import ExitCode, TgsError
from tgsbench.live import session
from tgsbench.tui.app import TgsApp
from tgsbench.tui.ascii import to_ascii
from tgsbench.tui.live_text import VERDICT_MARKS


def strips(app):
    """Lines as they reach the terminal, filters applied."""
    filters = app.get_line_filters()
    for strip in app.screen._compositor.render_strips():
        segments = list(strip)
        for line_filter in filters:
            segments = line_filter.apply(segments, app.screen.background_colors[0])
        yield segments


SCREENS = {
    "1": f"{NUM_PRESETS} of {NUM_PRESETS}", "2": "no runs in", "4": "attention backward",
    "5": "want attention", "3": "[c Charts]", "w": "over the median rank", "u": "1095 MHz",
    "o": "log of rank [0]", "a": "throttled: thermal", "f1": "Rank × step heatmap",
}  # fmt: skip
"""Key -> words that tell that its screen or pane is there."""


async def every_screen(pilot, look):
    for key, words in SCREENS.items():
        await pilot.press(key)
        await shows(pilot, to_ascii(words) if pilot.app.ascii_only else words)
        look(key)
    for keys, words in (("escape y", "Copy this run as"), ("escape 1 question_mark", "column"),
                        ("escape e", "Edit "), ("ctrl+p", "Everywhere:")):  # fmt: skip
        for key in keys.split():
            await pilot.press(key)
            await pilot.pause()
        await shows(pilot, words)
        look(keys)
    await pilot.press("escape")
    await until(pilot, lambda: "Everywhere:" not in text_of(pilot.app))
    await pilot.press("escape")


@pytest.mark.asyncio
@pytest.mark.parametrize("size", SIZES)
async def test_ascii_mode_writes_ascii_only_in_every_screen(runs_root, recording, size):
    app = TgsApp(runs_root=runs_root, ascii_only=True, opens=session.follow(recording))

    def look(where):
        for segments in strips(app):
            line = "".join(s.text for s in segments)
            assert line.isascii(), f"{where}: {line}"

    async with app.run_test(size=size) as pilot:
        await shows(pilot, "n = 24")
        await every_screen(pilot, look)
        await pilot.press("3", "c")
        await until(pilot, lambda: ".'" in text_of(app) or "''" in text_of(app), "charts in ASCII dots")


@pytest.mark.asyncio
async def test_no_color_writes_no_colour_in_any_screen(runs_root, recording, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))

    def look(where):
        for segments in strips(app):
            for segment in segments:
                style = segment.style
                if style is not None:
                    assert style.color is None or style.color.is_default, f"{where}: {segment}"
                    assert style.bgcolor is None or style.bgcolor.is_default, f"{where}: {segment}"

    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "n = 24")
        await every_screen(pilot, look)


@pytest.mark.asyncio
async def test_without_colour_the_chosen_row_is_reversed(runs_root, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        chosen = [s for segments in strips(app) for s in segments if "llama2_70b_8k" in s.text]
        assert any(s.style.reverse for s in chosen)


def test_ascii_keeps_widths():
    assert to_ascii("┌─┐ ⣿ 漢 ✓") == "+-+ ? ?? +"


def test_whatever_the_ui_prints_has_a_look_alike():
    package = Path(tgsbench.__file__).parent
    missing = set()
    for folder in ("tui", "metrics", "report", "store", "schema", "models", "launch", "system", "presets"):
        for file in (package / folder).rglob("*.py"):
            missing |= {c for c in set(file.read_text("utf-8")) if not c.isascii() and "?" in to_ascii(c)}
    assert not missing
    assert {to_ascii(mark) for mark in VERDICT_MARKS.values()} == {"^", "v", "=", "~", "!", "."}


def test_the_tui_imports_no_torch_and_no_trainer():
    code = (
        "import sys, pkgutil, importlib, tgsbench.tui\n"
        "for m in pkgutil.walk_packages(tgsbench.tui.__path__, 'tgsbench.tui.'):\n"
        "    if m.name != 'tgsbench.tui.serve': importlib.import_module(m.name)\n"
        "bad = ('torch', 'transformers', 'deepspeed', 'numpy', 'tgsbench.training')\n"
        "print([m for m in bad if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_imports_no_textual_before_the_ui_opens():
    modules = "tgsbench.cli.tui, tgsbench.cli.attach, tgsbench.cli.replay, tgsbench.cli.run"
    code = f"import sys, {modules}\nprint('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", [[], ["tui"], ["replay"], ["replay", "recorded"]])
def test_without_a_terminal_it_ends_at_once_with_code_2_and_the_headless_command(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tgsbench", *command], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "terminal" in done.stderr
    assert "tgsbench run --preset tiny_cpu --headless" in done.stderr or "tgsbench show" in done.stderr
    assert done.stdout == ""


def test_a_port_that_is_taken_is_an_error_of_the_user(monkeypatch):
    def refuse():
        raise OSError(errno.EADDRINUSE, "error while attempting to bind")

    made = SimpleNamespace(address="http://127.0.0.1:8317/secret/", serve=refuse)
    module = SimpleNamespace(server=lambda port, **options: made)
    monkeypatch.setattr(tgsbench.tui, "serve", module, raising=False)
    with pytest.raises(TgsError) as refused:
        cli_tui._serve(False, 8317, None)
    assert refused.value.msg == "cannot listen on 127.0.0.1:8317: address already in use"
    assert refused.value.exit_code == ExitCode.USAGE


@pytest.mark.asyncio
async def test_the_page_in_a_browser_takes_keys_at_once_and_its_websocket_is_for_it_alone():
    serve = pytest.importorskip("tgsbench.tui.serve", reason="tgsbench[serve] is not installed")
    from aiohttp.test_utils import TestClient, TestServer

    server = serve.server(8317)
    folder, here = server.gate.folder, {"Host": "127.0.0.1:8317"}
    async with TestClient(TestServer(await server._make_app())) as client:
        first = await client.get(f"{folder}/", headers=here)
        assert ".focus()" in (await first.text()).partition("</body>")[0]
        pass_ = here | {"Cookie": first.headers["Set-Cookie"].partition(";")[0]}
        assert (await client.get(f"{folder}/", headers=pass_)).status == 200
        elsewhere = pass_ | {"Origin": "http://elsewhere"}
        assert (await client.get(f"{folder}/ws", headers=elsewhere)).status == 403


@pytest.mark.asyncio
async def test_the_palette_has_no_character_whose_width_terminals_disagree_on(runs_root):
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("ctrl+p")
        text = await shows(pilot, "Everywhere:")
    assert all(cell_len(c) == 1 for c in text if c != "\n")
