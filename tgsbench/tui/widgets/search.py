"""A search line: enter and down go to the list, escape clears it and goes there too."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import takewhile
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message_pump import MessagePump
from textual.widgets import Input

_PATIENCE_S = 1.0


class Search(Input):
    """One line to filter by, as you type.

    Keys come in bursts over a slow line. Those that lead into it and out of it take effect before the next
    one is looked at, so that none ends up on the wrong side.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", show=False, priority=True),
        Binding("down", "done", "Down", show=False, priority=True),
        Binding("enter", "done", "To the list", show=False, priority=True),
    ]

    def __init__(self, placeholder: str, *, id: str, leads_to: str, stays: bool = True) -> None:
        """`leads_to`: selector of what gets the keys afterwards; `stays`: shown while it is empty, too."""
        super().__init__(placeholder=placeholder, id=id, compact=True)
        self._leads_to = leads_to
        self._stays = stays
        self.display = stays

    def take_keys(self) -> None:
        """Take the focus at once: `focus` would take it only after keys that are already queued."""
        self.display = True
        self.screen.set_focus(self)

    def lift(self) -> None:
        """Clear the filter."""
        self.value = ""
        self.display = self._stays

    async def action_leave(self) -> None:
        """Clear it and leave."""
        await self._take_in()
        self.value = ""
        await self.action_done()

    async def action_done(self) -> None:
        """Keep the filter and go to the list, once the list shows it."""
        await self._take_in()
        self.screen.set_focus(self.screen.query_one(self._leads_to))
        self.display = self._stays or bool(self.value)

    async def _take_in(self) -> None:
        """Wait until the letters typed so far are in the line, and their changes with the screen."""
        ours = takewhile(lambda node: node is not self.app, self.ancestors_with_self)
        for pump in (self, *ours):  # its letters first, then the change each of them makes, level by level
            with contextlib.suppress(TimeoutError):
                await _caught_up(pump)


async def _caught_up(pump: MessagePump) -> None:
    """Wait until it has handled all messages that it has now."""
    reached = asyncio.Event()
    if pump.call_later(reached.set):
        await asyncio.wait_for(reached.wait(), _PATIENCE_S)
