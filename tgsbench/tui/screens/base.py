"""What all main screens share: the bar of modes, the footer, breakpoints for small and large terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer
from textual.worker import Worker

from tgsbench.tui.actions import Scope
from tgsbench.tui.shell import Shell, shell
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.search import Search

if TYPE_CHECKING:
    from tgsbench.live.explain import Explanation

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
    scopes: ClassVar[tuple[Scope, ...]] = ()
    """Whose actions work here: palette and help show them."""

    @property
    def tgs(self) -> Shell:
        """The app, with its own type."""
        return shell(self.app)

    def compose(self) -> ComposeResult:
        """Bar, body, footer."""
        yield Line(mode_bar(self.mode_name), classes="mode-bar")
        yield from self.compose_body()
        yield Footer(show_command_palette=False, compact=True)

    def compose_body(self) -> ComposeResult:
        """What lies between the bar and the footer."""
        yield from ()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Turn the search key's action off while a search line has the focus, which takes it as a letter."""
        if action == "search" and isinstance(self.focused, Search):
            return None
        return super().check_action(action, parameters)

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """A background task of a screen failed: the app says so."""
        self.tgs.on_worker_state_changed(message)

    def explain_figure(self, figure: str) -> Explanation | None:
        """What `?` says about a figure of this screen."""
        from tgsbench.live.explain import TEXTS

        return TEXTS.get(figure)


def mode_bar(active: str) -> Text:
    """The five modes, the active one in brackets and reversed."""
    return Text(" tgsbench ", style="bold").append(tab_bar(MODES, active, "app.mode", reverse=True))


def tab_bar(tabs: Sequence[tuple[str, str]], active: str, action: str, *, reverse: bool = False) -> Text:
    """Labels side by side, the active one in brackets; each calls `action` with its name when clicked."""
    bar = Text()
    for name, label in tabs:
        at = name == active
        link = Style(bold=at, reverse=at and reverse, meta={"@click": f"{action}('{name}')"})
        bar.append(f"[{label}]" if at else f" {label} ", link).append(" ")
    return bar
