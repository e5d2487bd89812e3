"""A search line: enter and down go to the list, escape clears it and goes there too."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class Search(Input):
    """One line to filter by, as you type."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Clear", show=False),
        Binding("down", "done", "To the list", show=False),
    ]

    class Left(Message):
        """The user is done with it."""

        def __init__(self, search: Search) -> None:
            super().__init__()
            self.search = search

        @property
        def control(self) -> Search:
            """The line, for selectors."""
            return self.search

    def take_keys(self) -> None:
        """Take every key from the next one on: `focus` would do so only after the keys that wait already."""
        self.screen.set_focus(self)

    def action_leave(self) -> None:
        """Clear it and leave."""
        self.value = ""
        self.post_message(self.Left(self))

    def action_done(self) -> None:
        """Leave it as it is."""
        self.post_message(self.Left(self))

    async def action_submit(self) -> None:
        """Enter leaves too."""
        self.action_done()
