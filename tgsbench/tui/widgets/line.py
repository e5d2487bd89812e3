"""One-line texts that repaint only when they change."""

from __future__ import annotations

from rich.text import Text
from textual.widget import Widget


class Line(Widget):
    """Text from anywhere, shown as it is, never read as markup; an empty one takes no room.

    Changing it repaints this widget alone. A Static would lay out the whole screen again, which was half of
    what following a run cost.
    """

    def __init__(self, text: str | Text = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._text = text
        self.display = bool(text)

    @property
    def text(self) -> str:
        """What it says."""
        return str(self._text)

    def render(self) -> Text:
        """The text."""
        return Text(self._text) if isinstance(self._text, str) else self._text

    def show(self, text: str | Text) -> None:
        """Replace the text."""
        if text == self._text:
            return
        grows = str(text).count("\n") != self.text.count("\n")
        self._text = text
        if self.display != bool(text):
            self.display = bool(text)
        self.refresh(layout=grows)


class FigureLine(Line, can_focus=True):
    """A line that `?` explains once it is focused; a marker in front says that it is."""

    def __init__(self, figure: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.figure = figure
        """What `?` explains here."""

    def render(self) -> Text:
        """The text behind its marker."""
        return Text.assemble("> " if self.has_focus else "  ", super().render())

    def on_focus(self) -> None:
        """Show the marker."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the marker."""
        self.refresh()
