"""Messages that workers and screens send each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from tgsbench.live.session import Session


class EventsArrived(Message):
    """New events were folded into the open run; a burst of these becomes one repaint."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def can_replace(self, message: Message) -> bool:
        """Only the newest matters."""
        return isinstance(message, EventsArrived)


class SessionOpened(Message):
    """Another run was opened in the live screen."""
