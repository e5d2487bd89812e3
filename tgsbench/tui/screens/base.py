"""What all main screens share: the bar of modes, the footer, breakpoints for small and large terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer

from tgsbench.metrics.explain import TEXTS, Explanation
from tgsbench.tui.widgets.line import Line

if TYPE_CHECKING:
    from tgsbench.tui.app import TgsApp

MODES: tuple[tuple[str, str], ...] = (
    ("presets", "1 Presets"),
    ("runs", "2 Runs"),
    ("live", "3 Live"),
    ("profile", "4 Profile"),
    ("doctor", "5 Doctor"),
)


class ModeScreen(Screen[None]):
    """One of the five main screens."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-medium"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]  # noqa: RUF012
    mode_name: ClassVar[str] = ""

    @property
    def tgs(self) -> TgsApp:
        """The app, with its own type."""
        from tgsbench.tui.app import TgsApp

        assert isinstance(self.app, TgsApp)
        return self.app

    def compose(self) -> ComposeResult:
        """Bar, body, footer."""
        yield Line(mode_bar(self.mode_name), classes="mode-bar")
        yield from self.compose_body()
        yield Footer(show_command_palette=False, compact=True)

    def compose_body(self) -> ComposeResult:
        """What lies between the bar and the footer."""
        yield from ()

    def explain_figure(self, figure: str) -> Explanation | None:
        """What `?` says about a figure of this screen."""
        return TEXTS.get(figure)

    def copied(self, text: str, what: str) -> None:
        """Put text on the clipboard by OSC 52 and say so."""
        self.app.copy_to_clipboard(text)
        self.notify(f"copied {what} ({len(text)} characters, by OSC 52)", timeout=3)


def mode_bar(active: str) -> Text:
    """The five modes, the active one in brackets and reversed; each a link for the mouse."""
    bar = Text(" tgsbench ", style="bold")
    for name, label in MODES:
        text = f"[{label}]" if name == active else f" {label} "
        style = Style(bold=name == active, reverse=name == active, meta={"@click": f"app.mode('{name}')"})
        bar.append(text, style)
        bar.append(" ")
    return bar
