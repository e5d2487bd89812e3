"""Watches the ranks of this machine until they end, stall, are left by others, or are asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from tgsbench.errors import TgsError
from tgsbench.events.tail import RunTail, poll_period_s
from tgsbench.launch import stacks
from tgsbench.launch.departures import Departures
from tgsbench.launch.patience import Patience
from tgsbench.metrics.failure import is_follower
from tgsbench.schema.events import Bye, Error, Event, Phase, Warn
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Outcome
from tgsbench.store.run_dir import RunDir, why_unwritable
from tgsbench.system.awake import AwakeClock
from tgsbench.system.process import ProcessGroup

OnEvents = Callable[[list[Event]], None]
OnTick = Callable[[bool], None]
"""Called often, with whether the ranks measure now."""

_FOLLOW_S = 20.0
"""How long ranks get to end by themselves once one has failed; the agent takes up to 5 s of it."""
_LONGEST_LOOK_S = 2.0
"""Two looks at the ranks are no further apart, unless this process was stopped or its machine slept."""
_DISK_S = 10.0
"""Silence of all ranks after which the disk is looked at."""

_CANCEL = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""A person's: Ctrl-C, a closed terminal, Ctrl-\\."""
_PREEMPT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""A scheduler's: some warn by SIGUSR1 or SIGUSR2 before they kill."""


class StopSignals:
    """Remembers a signal that asks to end instead of dying of it, so that a run gets its status.

    By handlers, not by a mask: a masked signal still interrupts through any other thread of the process,
    and children inherit a mask. Python lets only the main thread have handlers: in another one, as of a
    program that calls `tgsbench.run` there, signals stay that program's own.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for sig in (*_CANCEL, *_PREEMPT):
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
        self._clock = AwakeClock(_LONGEST_LOOK_S)
        self._patience = Patience(preset, _forecast(run), self._clock.read())
        self._departures = Departures()
        self._on_events = on_events
        self._on_tick = on_tick
        self._on_end = on_end
        self._tail = RunTail(run.events_dir)
        self._left_s: float | None = None
        """When the first rank was seen to end otherwise than done."""
        self._measuring = False
        self._failed = False
        """Whether a rank said what went wrong with itself."""
        self._disk_told = False

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
        pause_s = poll_period_s(self._world_size)
        while child.poll() is None:
            self._hear()
            self._on_tick(self._measuring)
            now_s = self._clock.read()
            if stop.caught is not None or self._is_left(now_s):
                break
            if self._patience.silent_s(now_s) > self._patience.limit_s():
                return self._stalled(child, now_s)
            self._look_at_disk(now_s)
            time.sleep(pause_s)
        return self._ended(child, stop)

    def _is_left(self, now_s: float) -> bool:
        """Has a rank gone, and the others had their time to follow it?"""
        if self._left_s is not None and now_s - self._left_s > _FOLLOW_S:
            return True
        return self._departures.look(now_s)

    def _look_at_disk(self, now_s: float) -> None:
        """Say once that nothing can be written: training goes on, and may be recorded again."""
        if self._disk_told or self._patience.silent_s(now_s) < _DISK_S:
            return
        if why := why_unwritable(self._run.path):
            self._disk_told = True
            hint = f"make room there: in {self._patience.limit_s():.0f} s without an event the run is ended"
            self._on_events(
                [Warn(rank=-1, code="disk", msg=f"nothing is recorded any more: {why}", hint=hint)]
            )

    def _hear(self) -> None:
        """Take new events in."""
        events = self._tail.poll()
        self._on_events(events)
        events = [event for event in events if event.rank >= 0]  # the rest is of this machine, not of a rank
        now_s = self._clock.read()
        self._patience.hear(events, now_s)
        self._departures.hear(events)
        if self._left_s is None and any(_leaves(event) for event in events):
            self._left_s = now_s
        for event in events:
            if isinstance(event, Phase):
                self._measuring = event.phase == "measure"
        self._failed |= any(isinstance(event, Error) and not is_follower(event) for event in events)

    def _ended(self, child: ProcessGroup, stop: StopSignals) -> Outcome:
        code = child.poll()
        # Ranks of an agent that was killed go with it.
        left = self._departures.ranks() if code is None or code >= 0 else []
        if code is None:
            code = child.stop()
        # A run that failed, or was done, before it was asked to stop is told by its ranks' own words.
        if stop.caught is None or self._failed or code == 0:
            return Outcome(exit_code=code, left=left)
        return _stopped(stop.caught, code)

    def _stalled(self, child: ProcessGroup, now_s: float) -> Outcome:
        if disk := why_unwritable(self._run.path):
            return Outcome(exit_code=child.stop(), disk=disk)
        silent_s, cause = self._patience.silent_s(now_s), self._patience.silent_ranks(now_s)
        written = stacks.collect(self._run, child)
        code = child.stop()
        return Outcome(
            status="stalled",
            exit_code=code,
            reason=f"no rank made progress for {silent_s:.0f} s",
            hint="raise measure.stall_s if that may take longer" + _where_stacks(written, self._run),
            cause=cause,
        )


def _where_stacks(written: Sequence[Path], run: RunDir) -> str:
    """Ranks of other systems write no stacks: no folder is named that there is not."""
    return f"; every rank's stack is in {run.stacks_dir}" if written else f"; the logs are in {run.log_dir}"


def _forecast(run: RunDir) -> Forecast | None:
    """The forecast that the first node left; a later node may come before it."""
    with contextlib.suppress(TgsError):
        return run.manifest().forecast
    return None


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
    if caught in _PREEMPT:
        reason = f"{caught.name}: asked to end; steps so far are kept"
        return Outcome(status="preempted", exit_code=code, reason=reason)
    return Outcome(status="cancelled", exit_code=code, reason=f"{caught.name}: stopped by the user")
