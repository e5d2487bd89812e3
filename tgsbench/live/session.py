"""A run that is open in the UI: where its events come from, what they fold into, and how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.replay import Replay
from tgsbench.events.tail import GLANCE, PIECE_BYTES, RunTail
from tgsbench.launch.detached import Supervisor
from tgsbench.live.backlog import backlog
from tgsbench.live.fold import LiveRun, by_rank
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.live.step_columns import RankBatch, condense
from tgsbench.presets.recipes import load_recipe, num_profile_steps
from tgsbench.results import results
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Result
from tgsbench.store.run_dir import RunDir

STATUS_PERIOD_S = 1.0
FAST_FORWARD = 3600.0
"""Replay speed beyond which it is not a replay any more."""


class Feed(Protocol):
    """A source of events."""

    def pieces(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """What is new, each piece of one rank; a rank that is ahead of the others may wait."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether nothing more can be read right now."""
        ...


class FollowFeed:
    """The event files of a run as they grow; what a long run has there already, other processes read."""

    def __init__(self, events_dir: Path) -> None:
        self._tail = RunTail(events_dir, GLANCE)
        self._round = max(1, len(self._tail.tails()))
        """Pieces of the backlog between two closings of steps: about one of each file."""
        self._backlog = backlog(self._tail)
        self._is_backlog_read = False

    def pieces(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """New events, a piece of each file."""
        if not self._is_backlog_read:
            num = 0
            for piece in islice(self._backlog, self._round):
                num += 1
                yield piece
            self._is_backlog_read = num < self._round
        if self._is_backlog_read:
            yield from map(condense, self._tail.pieces(PIECE_BYTES, is_ahead))

    @property
    def caught_up(self) -> bool:
        """Were all files read to their ends?"""
        return self._is_backlog_read and self._tail.at_end

    @property
    def skipped(self) -> int:
        """Damaged and unknown lines."""
        return self._tail.skipped


class ReplayFeed:
    """A stored run's events, at `speed` times the pace they had."""

    def __init__(self, events_dir: Path, speed: float) -> None:
        self.events_dir = events_dir
        self.replay = Replay(events_dir)
        self.speed = speed
        self.paused = False
        self.target_s = 0.0
        """Position to catch up to, seconds since the run's first event."""
        self._last = time.monotonic()

    def pieces(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """What happened since the last call."""
        now = time.monotonic()
        if not self.paused:
            self.target_s += (now - self._last) * self.speed
        self._last = now
        self.target_s = min(max(self.target_s, self.replay.at_s), self.replay.duration_s)
        yield from map(condense, by_rank(self.replay.advance_to(self.target_s)))

    @property
    def caught_up(self) -> bool:
        """Is the replay at the position it aims at?"""
        following = self.replay.next_s
        return following is None or following > self.target_s

    @property
    def skipped(self) -> int:
        """A replay counts nothing."""
        return 0

    def faster(self, factor: float) -> None:
        """Multiply the speed, within 1/8 and FAST_FORWARD."""
        self.speed = min(FAST_FORWARD, max(0.125, self.speed * factor))

    def skip(self, seconds: float) -> None:
        """Jump ahead by run time."""
        self.target_s = min(self.target_s + seconds, self.replay.duration_s)


@dataclass
class Session:
    """One open run. `lock` is held while events are folded and while figures are read."""

    run: RunDir
    manifest: Manifest
    view: RunView
    feed: FollowFeed | ReplayFeed
    supervisor: Supervisor | None = None
    """Its supervisor, when this process started it."""
    status: str = "running"
    result: Result | None = None
    """The stored result, once there is one."""
    message: str = ""
    """Why the run cannot be read any further, or empty."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    _status_at: float = -1e9

    @property
    def is_replay(self) -> bool:
        """Is it played again rather than followed?"""
        return isinstance(self.feed, ReplayFeed)

    @property
    def is_simulated(self) -> bool:
        """Made-up events, to be marked wherever they are shown."""
        return "simulated" in self.manifest.tags

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return not self.is_replay and (self.status != "running" or bool(self.message))

    def pump(self, budget_s: float = 0.2) -> bool:
        """Fold what is new, for at most `budget_s`; True when there may be more at once.

        Runs in a worker thread. Never raises for what lies in the run's folder: `message` says it.
        """
        deadline = time.monotonic() + budget_s
        while time.monotonic() < deadline:
            try:
                for piece in self.feed.pieces(self.view.live.is_ahead):
                    with self.lock:
                        self.view.live.take(piece, time.monotonic())
                with self.lock:
                    self.view.live.close_steps()
            except TgsError as error:
                self.message = _sentence(error)
                return False
            if self.feed.caught_up:
                return False
        return True

    def restart_replay(self) -> None:
        """Play again from the beginning."""
        assert isinstance(self.feed, ReplayFeed)
        fresh = ReplayFeed(self.feed.events_dir, self.feed.speed)
        with self.lock:
            self.view = RunView(self.view.plan, LiveRun(self.manifest.world_size))
            self.feed = fresh

    def look_at_status(self) -> None:
        """How the run stands, at most once a second; in a worker thread, as `pump`.

        Slow once for a long run whose launcher died without a result: that is made from all its events.
        """
        now = time.monotonic()
        if self.is_replay or now - self._status_at < STATUS_PERIOD_S or self.result is not None:
            return
        self._status_at = now
        exit_code = self.supervisor.exit_code() if self.supervisor else None
        try:
            self._judge(exit_code)
        except TgsError as error:
            self.message = _sentence(error)
        except OSError as error:
            self.message = f"{self.run.path}: {error.strerror or error}"

    def _judge(self, exit_code: int | None) -> None:
        if not self.run.path.is_dir():
            self.message = f"the folder {self.run.path} is gone: it was moved or deleted"
            return
        stored = self.run.result()
        if stored is None and exit_code is None and self._may_live():
            return
        self.result = stored or results.load_result(self.run)
        self.status = self.result.status
        if self.status == "running":  # alive after all, or another host's
            self.result = None

    def _may_live(self) -> bool:
        """A supervisor we started lives until it is reaped; one of somebody else's says so in run.json."""
        return self.supervisor is not None or results.is_running(self.run)


def _sentence(error: TgsError) -> str:
    return error.msg + (f" — {error.hint}" if error.hint else "")


def follow(run: RunDir, supervisor: Supervisor | None = None) -> Session:
    """Open a run to follow it, or to look at it when it is over. Raises TgsError when it cannot be read."""
    manifest, view = _opened(run)
    return Session(run, manifest, view, FollowFeed(run.events_dir), supervisor)


def replay(run: RunDir, speed: float) -> Session:
    """Open a run to play it again. Raises TgsError when it cannot be read."""
    manifest, view = _opened(run)
    return Session(run, manifest, view, ReplayFeed(run.events_dir, speed), status="replay")


def _opened(run: RunDir) -> tuple[Manifest, RunView]:
    if not run.path.is_dir():
        raise TgsError(
            f"no run folder {run.path}", hint="`tgsbench runs` lists them", exit_code=ExitCode.STORE
        )
    manifest, preset = run.manifest(), run.preset()
    return manifest, RunView(_plan(preset), LiveRun(manifest.world_size))


def _plan(preset: Preset) -> StepPlan:
    """Its steps, those of its capture recipe among them; a recipe that is not on this machine counts none."""
    if not preset.profile:
        return StepPlan.of(preset)
    try:
        return StepPlan.of(preset, num_profile_steps(load_recipe(preset.profile)))
    except TgsError:
        return StepPlan.of(preset)
