"""One-line texts that repaint only when they change."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Line(Static):
    """A line of text from anywhere: shown as it is, never read as markup."""

    def __init__(self, text: str | Text = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(Text(text) if isinstance(text, str) else text, id=id, classes=classes, markup=False)
        self._shown: str | Text = text
        self.display = bool(text)

    def show(self, text: str | Text) -> None:
        """Replace the text; an empty one hides the line."""
        if text != self._shown:
            self._shown = text
            self.update(Text(text) if isinstance(text, str) else text)
        self.display = bool(text)
