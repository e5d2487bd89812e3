"""Watches the ranks of this machine until they end, stall, are left by others, or are asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from tgsbench.events.tail import RunTail, poll_period_s
from tgsbench.launch import stacks
from tgsbench.metrics.failure import is_follower, rank_list
from tgsbench.schema.events import Bye, Error, Event, Gpu, Heartbeat, Hello, Phase, Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Outcome
from tgsbench.store.run_dir import RunDir
from tgsbench.system.process import ProcessGroup

OnEvents = Callable[[list[Event]], None]
OnTick = Callable[[bool], None]
"""Called often, with whether the ranks measure now."""

_START_S = 180.0
"""Least patience until every rank has done a step: imports, packing and compilation write few events."""
_SILENT_BEATS = 5
"""Heartbeats that may be missing; a rank that holds the interpreter lock for long misses one or two."""
_FOLLOW_S = 20.0
"""How long ranks get to end by themselves once one has failed; the agent takes up to 5 s of it."""


_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Remembers SIGINT, SIGTERM or SIGHUP instead of dying, so that a run gets its status.

    By handlers, not by a mask: a masked signal still interrupts through any other thread of the process,
    and children inherit a mask. Python lets only the main thread have handlers: in another one, as of a
    program that calls `tgsbench.run` there, signals stay that program's own.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for sig in _STOP:
                self._before[sig] = signal.signal(sig, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sig, handler in self._before.items():
            signal.signal(sig, handler)  # type: ignore[arg-type]

    def send_on(self) -> None:
        """Raise again, for whoever listens now, what was caught."""
        if self.caught is not None:
            signal.raise_signal(self.caught)

    def _catch(self, signum: int, _frame: FrameType | None) -> None:
        self.caught = self.caught or signal.Signals(signum)


class Watch:
    """One machine's part of a run, from its start to its outcome."""

    def __init__(
        self, run: RunDir, preset: Preset, on_events: OnEvents, on_tick: OnTick, on_end: Callable[[], None]
    ) -> None:
        self._run = run
        self._world_size = preset.world_size
        self._stall_s = preset.measure.stall_s
        self._silent_s = _SILENT_BEATS * max(1.0, preset.measure.heartbeat_s)
        self._on_events = on_events
        self._on_tick = on_tick
        self._on_end = on_end
        self._tail = RunTail(run.events_dir)
        self._left_s: float | None = None
        """When the first rank was seen to end otherwise than done."""
        self._stepped: set[int] = set()
        self._heard_s: dict[int, float] = {}
        """When each rank last wrote anything, heartbeats included."""
        self._hosts: dict[int, str] = {}
        self._measuring = False
        self._failed = False
        """Whether a rank said what went wrong with itself."""

    def follow(self, child: ProcessGroup, stop: StopSignals) -> Outcome:
        """Pass events on until the ranks are gone; whatever happens here, no rank is left behind."""
        oom_kills = kernel_oom_kills()
        try:
            outcome = self._until_over(child, stop)
        finally:
            if child.poll() is None:
                child.stop()
        outcome.oom_kills = max(0, kernel_oom_kills() - oom_kills)
        self._on_end()
        self._hear()
        return outcome

    def _until_over(self, child: ProcessGroup, stop: StopSignals) -> Outcome:
        last_progress_s = time.monotonic()
        pause_s = poll_period_s(self._world_size)
        while child.poll() is None:
            if self._hear():
                last_progress_s = time.monotonic()
            self._on_tick(self._measuring)
            if stop.caught is not None:
                break
            if self._left_s is not None and time.monotonic() - self._left_s > _FOLLOW_S:
                break
            if (silent_s := time.monotonic() - last_progress_s) > self._patience_s():
                return self._stalled(child, silent_s)
            time.sleep(pause_s)
        return self._ended(child, stop)

    def _patience_s(self) -> float:
        stepping = len(self._stepped) >= self._world_size
        return self._stall_s if stepping else max(self._stall_s, _START_S)

    def _hear(self) -> bool:
        """Take new events in; did any rank get further?"""
        events = self._tail.poll()
        self._on_events(events)
        events = [event for event in events if event.rank >= 0]  # the rest is of this machine, not of a rank
        if self._left_s is None and any(_leaves(event) for event in events):
            self._left_s = time.monotonic()
        self._stepped.update(event.rank for event in events if isinstance(event, Step))
        now_s = time.monotonic()
        for event in events:
            self._heard_s[event.rank] = now_s
            if isinstance(event, Hello):
                self._hosts[event.rank] = event.host
            elif isinstance(event, Phase):
                self._measuring = event.phase == "measure"
        self._failed |= any(isinstance(event, Error) and not is_follower(event) for event in events)
        return any(not isinstance(event, Heartbeat | Gpu) for event in events)

    def _ended(self, child: ProcessGroup, stop: StopSignals) -> Outcome:
        code = child.poll()
        if code is None:
            code = child.stop()
        # A run that failed, or was done, before it was asked to stop is told by its ranks' own words.
        if stop.caught is None or self._failed or code == 0:
            return Outcome(exit_code=code)
        return _stopped(stop.caught, code)

    def _stalled(self, child: ProcessGroup, silent_s: float) -> Outcome:
        cause = self._silent()
        stacks.collect(self._run, child)
        code = child.stop()
        return Outcome(
            status="stalled",
            exit_code=code,
            reason=f"no rank made progress for {silent_s:.0f} s",
            hint="raise measure.stall_s if one step takes longer; every rank's stack is in stacks/",
            cause=cause,
        )

    def _silent(self) -> str:
        """Ranks whose heartbeats stopped while others go on: their host, its disk or its network is gone."""
        now_s = time.monotonic()
        silent = sorted(r for r, heard_s in self._heard_s.items() if now_s - heard_s > self._silent_s)
        if not silent or len(silent) == len(self._heard_s):
            return ""
        hosts = ", ".join(dict.fromkeys(self._hosts.get(rank, "?") for rank in silent))
        longest_s = max(now_s - self._heard_s[rank] for rank in silent)
        return f"{rank_list(silent)} on {hosts} silent for {longest_s:.0f} s"


def kernel_oom_kills() -> int:
    """How often this machine's out-of-memory killer has struck since it started; 0 where it is not told."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _leaves(event: Event) -> bool:
    return isinstance(event, Error) or (isinstance(event, Bye) and event.status != "ok")


def _stopped(caught: signal.Signals, code: int) -> Outcome:
    if caught == signal.SIGTERM:
        return Outcome(
            status="preempted", exit_code=code, reason="SIGTERM: asked to end; steps so far are kept"
        )
    return Outcome(status="cancelled", exit_code=code, reason=f"{caught.name}: stopped by the user")
