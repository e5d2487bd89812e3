"""One number with its name; focus it and press ? to learn what it is."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Digits

from tgsbench.tui.widgets.line import FigureLine, Line
from tgsbench.tui.widgets.segments import seven_segment


class Figure(Widget, can_focus=True):
    """Name above value; `figure` is what `?` explains."""

    value: reactive[str] = reactive("-")
    note: reactive[str] = reactive("")
    label: reactive[str] = reactive("")

    def __init__(self, label: str, figure: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.figure = figure
        self.set_reactive(Figure.label, label)

    def render(self) -> Text:
        """Two lines."""
        name = Text(("> " if self.has_focus else "  ") + self.label, style="dim", no_wrap=True)
        value = Text(f"\n  {self.value}", style="bold", no_wrap=True)
        return Text.assemble(
            name, value, Text(f" {self.note}" if self.note else "", style="dim"), no_wrap=True
        )

    def on_focus(self) -> None:
        """Show the marker."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the marker."""
        self.refresh()


class BigFigure(Vertical, can_focus=True):
    """The run's TGS: large digits, its interval, the verdict."""

    figure = "tgs"
    """What `?` explains here."""

    def compose(self) -> ComposeResult:
        """Title, digits, two lines below."""
        yield Line("  TGS  tokens/GPU/s", id="big-title")
        if getattr(self.app, "ascii_only", False):
            yield Line(seven_segment("-"), id="big-digits")
        else:
            yield Digits("-", id="big-digits")
        yield FigureLine("tgs_ci", id="big-interval")

    def show(self, value: str, title: str, interval: str) -> None:
        """Render the figure; Textual repaints only what changed."""
        digits = self.query_one("#big-digits")
        if isinstance(digits, Line):
            digits.show(seven_segment(value))
        elif isinstance(digits, Digits) and digits.value != value:
            digits.update(value)
        marker = "> " if self.has_focus else "  "
        self.query_one("#big-title", Line).show(marker + title)
        self.query_one("#big-interval", Line).show(interval)
