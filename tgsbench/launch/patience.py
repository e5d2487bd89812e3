"""When the ranks last made progress, and how many seconds without any make a run stalled."""

from __future__ import annotations

from collections.abc import Iterable

from tgsbench.metrics.failure import rank_list
from tgsbench.metrics.progress import patience_s
from tgsbench.schema.events import Event, Gpu, Heartbeat, Hello, Step
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset

_START_S = 180.0
"""Least patience until every rank has done a step: imports, packing and compilation write few events."""
_SILENT_BEATS = 5
"""Heartbeats that may be missing; a rank that holds the interpreter lock for long misses one or two."""


class Patience:
    """Takes the ranks' events as they come; all times are seconds of one clock, which the caller reads."""

    def __init__(self, preset: Preset, forecast: Forecast | None, now_s: float) -> None:
        self._preset = preset
        self._forecast = forecast
        self._last_s = now_s
        self._longest_wait_s = 0.0
        """Longest wait within the steps that ended in progress."""
        self._stepped: set[int] = set()
        self._ticks: dict[int, int] = {}
        self._heard_s: dict[int, float] = {}
        """When each rank last wrote anything, heartbeats included."""
        self._hosts: dict[int, str] = {}

    def hear(self, events: Iterable[Event], now_s: float) -> None:
        """Note which ranks wrote these events, and whether one of them is progress."""
        got_further = False
        for event in events:
            self._heard_s[event.rank] = now_s
            if isinstance(event, Hello):
                self._hosts[event.rank] = event.host
            elif isinstance(event, Step):
                self._stepped.add(event.rank)
            got_further |= self._is_progress(event)
        if got_further:
            if self._stepped:
                self._longest_wait_s = max(self._longest_wait_s, now_s - self._last_s)
            self._last_s = now_s

    def silent_s(self, now_s: float) -> float:
        """Seconds since any rank made progress."""
        return now_s - self._last_s

    def limit_s(self) -> float:
        """Seconds without progress after which the run is stalled."""
        limit_s = patience_s(self._preset, self._forecast, self._longest_wait_s)
        all_stepped = len(self._stepped) >= self._preset.world_size
        return limit_s if all_stepped else max(limit_s, _START_S)

    def silent_ranks(self, now_s: float) -> str:
        """Ranks whose heartbeats stopped while others go on: their host, its disk or its network is gone."""
        limit_s = _SILENT_BEATS * max(1.0, self._preset.measure.heartbeat_s)
        silent = sorted(r for r, heard_s in self._heard_s.items() if now_s - heard_s > limit_s)
        if not silent or len(silent) == len(self._heard_s):
            return ""
        hosts = ", ".join(dict.fromkeys(self._hosts.get(rank, "?") for rank in silent))
        longest_s = max(now_s - self._heard_s[rank] for rank in silent)
        return f"{rank_list(silent)} on {hosts} silent for {longest_s:.0f} s"

    def _is_progress(self, event: Event) -> bool:
        """A heartbeat is when it brings more ticks than the rank's last one; a sample of a GPU never is."""
        if isinstance(event, Heartbeat):
            before, self._ticks[event.rank] = self._ticks.get(event.rank, 0), event.ticks
            return event.ticks > before
        return not isinstance(event, Gpu)
