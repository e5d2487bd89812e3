"""Notices a rank of this machine that has gone without a word while the agent takes it for done.

The agent acts on exit codes other than 0 alone: of a rank that leaves with 0 before its work is done, only
the others' endless wait would tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from tgsbench.schema.events import Bye, Event, Hello
from tgsbench.system.environment import host_name
from tgsbench.system.lifetime import process_identity

_AGENT_S = 10.0
"""The agent notices any other exit within 0.1 s, and then takes up to 5 s to end itself."""


class Departures:
    """Watches the processes that the ranks' hellos name."""

    def __init__(self) -> None:
        self._alive: dict[int, tuple[int, str]] = {}
        """Process number and identity of each rank of this machine that has not said goodbye."""
        self._gone_s: dict[int, float] = {}
        """When each was first seen to be gone."""

    def hear(self, events: Iterable[Event]) -> None:
        """Learn who is there and who said goodbye."""
        for event in events:
            if isinstance(event, Hello) and event.pid > 0 and event.host == host_name():
                self._alive[event.rank] = event.pid, process_identity(event.pid)
            elif isinstance(event, Bye):
                self._alive.pop(event.rank, None)
                self._gone_s.pop(event.rank, None)

    def look(self, now_s: float) -> bool:
        """Look again; has a rank been gone for so long that the agent will not say why?"""
        for rank, (pid, identity) in list(self._alive.items()):
            if not identity or process_identity(pid) != identity:
                self._gone_s.setdefault(rank, now_s)
                del self._alive[rank]
        return any(now_s - gone_s > _AGENT_S for gone_s in self._gone_s.values())

    def ranks(self) -> list[int]:
        """Ranks that have gone without a word, in the order in which they were seen to be gone."""
        return sorted(self._gone_s, key=lambda rank: (self._gone_s[rank], rank))
