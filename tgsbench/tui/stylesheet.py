"""The style sheet of the terminal UI."""

from __future__ import annotations

from textual.css.stylesheet import Stylesheet


class SteadyStylesheet(Stylesheet):
    """Parses again only after a change.

    Textual 8 parses every source once more for each first look at a screen, and twice before anything is
    shown: 30 of the 500 ms in which the UI starts.
    """

    _parsed: object = None

    def parse(self) -> None:
        """Parse the sources. Raises StylesheetParseError for CSS that is none."""
        super().parse()
        self._parsed = self._state()

    def reparse(self) -> None:
        """Parse them anew where a variable or a source has changed. Raises as `parse`."""
        if self._parsed != self._state():
            super().reparse()
            self._parsed = self._state()

    def _state(self) -> object:
        return dict(self._variables), tuple(self.source.items())
