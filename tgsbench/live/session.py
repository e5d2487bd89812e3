"""A run that is open in the UI: the figures folded from its events, and its status."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.detached import Supervisor
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import FollowFeed, ReplayFeed, poll
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.presets.recipes import load_recipe, num_profile_steps
from tgsbench.results import results
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Result
from tgsbench.store.run_dir import RunDir

STATUS_PERIOD_S = 1.0


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
        """Are its events simulated? Then every screen says so."""
        return "simulated" in self.manifest.tags

    @property
    def is_virtual(self) -> bool:
        """Did it run on a virtual GPU? Then its seconds are those of the host."""
        return self.manifest.virtual is not None

    @property
    def is_over(self) -> bool:
        """Has the run ended, or become unreadable, so that no more events come?"""
        return not self.is_replay and (self.status != "running" or bool(self.message))

    def poll(self, budget_s: float = 0.2) -> bool:
        """Fold what is new, for about `budget_s`; True when there may be more at once.

        Runs in a worker thread. Never raises for what lies in the run's folder: `message` says it.
        """
        try:
            return poll(self.feed, self.view.live, budget_s=budget_s, lock=self.lock)
        except TgsError as error:
            self.message = _sentence(error)
            return False

    def restart_replay(self) -> None:
        """Play again from the beginning."""
        assert isinstance(self.feed, ReplayFeed)
        fresh = ReplayFeed(self.feed.events_dir, self.feed.speed)
        with self.lock:
            self.view = RunView(self.view.plan, live_run(self.manifest))
            self.feed = fresh

    def look_at_status(self) -> None:
        """Update `status` and `result` from the folder, at most once a second; call it in a worker thread.

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
    return manifest, RunView(_plan(preset), live_run(manifest))


def live_run(manifest: Manifest) -> LiveRun:
    """Nothing folded yet, of the ranks that a run starts; an emulated one has no steps to fold."""
    virtual = manifest.virtual
    if virtual is not None and virtual.rank is not None:
        return LiveRun(1, virtual.rank)
    return LiveRun(manifest.world_size)


def _plan(preset: Preset) -> StepPlan:
    """Its steps, those of its capture recipe among them; a recipe that is not on this machine counts none."""
    if not preset.profile:
        return StepPlan.of(preset)
    try:
        return StepPlan.of(preset, num_profile_steps(load_recipe(preset.profile)))
    except TgsError:
        return StepPlan.of(preset)
