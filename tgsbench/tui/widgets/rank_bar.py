"""Ranks as tabs: the chosen one in brackets, around it as many as there is room for; a click chooses."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual import events
from textual.message import Message

from tgsbench.tui.widgets.line import Line


class RankBar(Line):
    """One line: what it is of, the ranks, what else there is to say."""

    class Chosen(Message):
        """A rank was clicked."""

        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank = rank

    def __init__(self, what: str, *, id: str | None = None) -> None:
        super().__init__(f" {what}", id=id)
        self._what, self._shown = what, (0, 1, "")

    def show_ranks(self, chosen: int, world: int, note: str) -> None:
        """Render the ranks around `chosen`, and `note` behind them."""
        self._shown = (chosen, world, note)
        self._lay_out()

    def on_resize(self) -> None:
        """More or fewer ranks than before."""
        self._lay_out()

    def _lay_out(self) -> None:
        what, (chosen, world, note) = self._what, self._shown
        room = self.size.width - len(what) - len(note) - 4  # spaces between them
        tabs = Text(f" {what} ")
        for rank in window(chosen, world, room // (len(str(world - 1)) + 2)):
            label = f"[{rank}]" if rank == chosen else f" {rank} "
            tabs.append(label, Style(bold=rank == chosen, meta={"rank": rank}))
        self.show(tabs.append(f"  {note}"))

    def on_click(self, event: events.Click) -> None:
        """Choose the rank under the mouse."""
        if (rank := event.style.meta.get("rank")) is not None:
            self.post_message(self.Chosen(rank))


def window(chosen: int, world: int, room: int) -> range:
    """At most `room` ranks with `chosen` in their middle, or as near to it as the ends allow."""
    num = max(1, min(world, room))
    first = min(max(0, chosen - num // 2), world - num)
    return range(first, first + num)
