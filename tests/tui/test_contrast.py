"""Text stands out from its ground by 4.5:1 in every theme, on every screen, as it reaches the terminal."""

import pytest
from textual.theme import BUILTIN_THEMES

from tests.tui.conftest import NUM_PRESETS, shows, text_of, until
from tests.tui.test_tune import write_state
from tgsbench.live import session
from tgsbench.tui import contrast
from tgsbench.tui.app import TgsApp

OF_THE_TERMINAL = {"ansi-dark", "ansi-light"}
"""Their colours are the terminal's own: nobody but its user knows them."""
THEMES = sorted(set(BUILTIN_THEMES) - OF_THE_TERMINAL)
LEADS = {
    "presets": ("1", f"of {NUM_PRESETS} presets"),
    "search": ("slash z", "0 of"),
    "form": ("escape e tab tab tab tab 7", "nearest"),
    "forecast": ("escape f", "none fits|fit, fastest first|no search"),
    "tune form": ("escape U", "real runs"),
    "tunes": ("escape ctrl+p o p e n space t u n e", "how it stands"),
    "tune": ("enter", "1 long run"),
    "trials": ("X", "rank 1 crashed"),
    "knobs": ("W", "the other is measured"),
    "front": ("M", "no other that was tried"),
    "runs": ("escape 2 x", "1 marked"),
    "delete": ("d", "Keep it"),
    "details": ("escape i", "peak memory"),
    "live": ("escape 3", "n = 24"),
    "ranks": ("w", "over the median rank"),
    "gpus": ("u", "1095 MHz"),
    "logs": ("o", "log of rank [0]"),
    "notes": ("a", "throttled: thermal"),
    "profile": ("4", "attention backward"),
    "kernels": ("K", "flash_fwd_kernel"),
    "doctor": ("5", "want attention"),
    "help": ("f1", "Everywhere"),
    "palette": ("escape ctrl+p", "Everywhere:"),
}
"""Screen -> keys that lead there from the one before, words that tell that it is there."""


def faint(app):
    """Texts on the screen that stand out too little, with their colours."""
    found = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            if contrast._FRAMES.issuperset(segment.text) or segment.style is None:
                continue
            pair = contrast.colours(segment.style, app.screen.background_colors[0])
            if pair is not None and contrast.contrast(*pair) < contrast.READABLE:
                found.add((segment.text.strip(), pair[0].hex, pair[1].hex, contrast.contrast(*pair)))
    return found


def coloured(app):
    """How many pieces of text have colours that can be computed."""
    styles = [s.style for strip in app.screen._compositor.render_strips() for s in strip if s.text.strip()]
    ground = app.screen.background_colors[0]
    return sum(contrast.colours(style, ground) is not None for style in styles if style is not None)


SHOWN_IN_ALL = {"form", "runs", "live", "ranks", "kernels", "palette"}
"""Screens that hold every kind of text: all themes are tried on these, dark and light on the others."""
DARK_AND_LIGHT = ("textual-dark", "solarized-light")


@pytest.mark.asyncio
async def test_every_text_can_be_read_in_every_theme(runs_root, recording, add_run):
    add_run("one-aa01")
    write_state(runs_root)
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "n = 24")
        for screen, (keys, words) in LEADS.items():
            await pilot.press(*keys.split())
            choices = words.split("|")
            await until(pilot, lambda: any(c in text_of(app) for c in choices), f"{screen}: {words}")  # noqa: B023
            for theme in THEMES if screen in SHOWN_IN_ALL else DARK_AND_LIGHT:
                app.theme = theme
                await pilot.pause()
                assert faint(app) == set(), (screen, theme)
                assert coloured(app) > 10, (screen, theme)


@pytest.mark.asyncio
async def test_without_the_filter_texts_are_faint(runs_root, recording, monkeypatch):
    """The test above would see them."""
    monkeypatch.setattr(contrast.ContrastFilter, "apply", lambda self, segments, background: segments)
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "n = 24")
        app.theme = "solarized-light"
        await pilot.pause()
        assert len(faint(app)) > 3


@pytest.mark.parametrize(
    ("one", "other", "ratio"), [("#000", "#fff", 21.0), ("#777", "#fff", 4.48), ("#f00", "#00f", 2.15)]
)
def test_contrast_is_what_wcag_says(one, other, ratio):
    parse = contrast.Color.parse
    assert contrast.contrast(parse(one), parse(other)) == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("back", ["#000000", "#ffffff", "#808080", "#0178d4", "#ffff00"])
@pytest.mark.parametrize("front", ["#000000", "#ffffff", "#808080", "#ff0000", "#0178d4"])
def test_any_colour_on_any_ground_can_be_read_afterwards(front, back):
    front, back = contrast.Color.parse(front), contrast.Color.parse(back)
    lifted = contrast.readable(front, back)
    assert contrast.contrast(lifted, back) >= contrast.READABLE
    if contrast.contrast(front, back) >= contrast.READABLE:
        assert lifted == front, "what can be read stays as it is"
