"""The live run: figures, charts, heatmap, GPUs, logs, notes; also what a replay is shown in."""

from __future__ import annotations

import contextlib
import time
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid, Horizontal, Vertical
from textual.widgets import Input
from textual.worker import Worker, get_current_worker

from tgsbench.errors import TgsError
from tgsbench.events.logs import LogTail
from tgsbench.launch import detached
from tgsbench.live.explain import Explanation, explain
from tgsbench.live.follow import ReplayFeed
from tgsbench.live.heatmap import METRICS, heatmap, rows_of
from tgsbench.live.session import Session
from tgsbench.models.flops import CONVENTIONS, XTUNER
from tgsbench.tui import live_text
from tgsbench.tui.actions import bindings
from tgsbench.tui.messages import EventsArrived, SessionOpened
from tgsbench.tui.screens.base import ModeScreen, tab_bar
from tgsbench.tui.screens.dialogs import Choice
from tgsbench.tui.widgets.chart import ChartView
from tgsbench.tui.widgets.figure import BigFigure, Figure
from tgsbench.tui.widgets.heat_view import HeatView
from tgsbench.tui.widgets.line import FigureLine, Line
from tgsbench.tui.widgets.log_view import LogView
from tgsbench.tui.widgets.rank_bar import RankBar
from tgsbench.tui.widgets.search import Search
from tgsbench.tui.widgets.table import ListTable
from tgsbench.units import counted

PANES: tuple[tuple[str, str], ...] = (
    ("charts", "c Charts"),
    ("ranks", "w Ranks"),
    ("gpus", "u GPUs"),
    ("logs", "o Logs"),
    ("notes", "a Notes"),
)
REPAINT_PERIOD_S = 0.1
"""At most ten repaints a second, whatever comes in."""
LIVE_POLL_S = 0.5
"""Two looks a second at the event files: a step that lasts less is seen with its neighbour."""
LONGEST_POLL_S = 1.5
WATCHING_SHARE = 0.04
"""Of one core, at most, as long as LONGEST_POLL_S is enough for it: the cores are the ranks'.

64 ranks in 120 × 40 take 25 to 45 ms a look, by the machine; half of it are the charts.
"""
REPLAY_POLL_S = 0.1
NAP_S = 0.1
CATCH_UP_S = 2.0
"""Time between repaints while a long run is read: each takes the interpreter from the reading."""
NOTHING_OPEN = (
    "No run is open.\n\n"
    "  1   choose a preset and press r to run it\n"
    "  2   open one of the stored runs\n"
    "  F2  the three ways to begin, among them a recorded run to play"
)
DISCARD_PATIENCE_S = 30.0
"""A supervisor gives its ranks 16 s at most before it kills them."""
STOP_CHOICES = (
    ("keep", "Stop, keep what was measured (status cancelled)"),
    ("discard", "Stop and delete the run"),
    ("", "Let it run"),
)
NUMBER_WIDTH = 5
"""Room for the line numbers of the notes and a scrollbar."""
LOG_KEYS = ", . rank  / filter  n error"
FIGURES: tuple[tuple[str, str, str], ...] = (
    ("tflops", "TFLOPs/GPU", "tflops"),
    ("step", "step time", "step_s"),
    ("mem", "peak memory", "mem"),
    ("mfu", "MFU", "mfu"),
    ("eta", "time left", "eta"),
    ("loss", "loss", "loss"),
)
"""Id, label and explained figure of the small figures, row by row."""


class LiveScreen(ModeScreen):
    """Shows the app's open session."""

    mode_name = "live"
    scopes = ("live", "replay", "chart", "log", "list")
    BINDINGS: ClassVar[list[BindingType]] = bindings("live", "replay")

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self._rank = 0
        self._convention = XTUNER
        self._metric = "step time"
        self._pane = "charts"
        self._wide = False
        """Are all panes shown side by side?"""
        self._log: LogTail | None = None
        self._painted_at = 0.0
        self._was_over = False

    def compose_body(self) -> ComposeResult:
        """Lines on top, figures, panes."""
        yield Line(NOTHING_OPEN, id="nothing")
        with Vertical(id="live-body"):
            yield Line(id="run-line")
            yield Line(id="replay-line")
            yield Line(id="phase-line")
            yield Line(id="alert-line")
            with Horizontal(id="figures"):
                yield BigFigure(id="big")
                with Grid(id="small-figures"):
                    for name, label, figure in FIGURES:
                        yield Figure(label, figure, id=name)
            yield FigureLine("verdict", id="verdict-line")
            yield Line(id="pane-line")
            yield from self._compose_panes()

    def _compose_panes(self) -> ComposeResult:
        with Grid(id="panes"):
            with Grid(id="pane-charts", classes="pane"):
                yield ChartView("TGS", figure="tgs", id="chart-tgs")
                yield ChartView("step time, slowest rank", figure="step_s", id="chart-step")
                yield ChartView("loss", figure="loss", id="chart-loss")
                yield ChartView("peak memory, largest rank", figure="mem", id="chart-mem")
            with Vertical(id="pane-ranks", classes="pane"):
                yield HeatView(id="heat")
            with Vertical(id="pane-gpus", classes="pane"):
                yield ListTable(GPU_COLUMNS, id="gpu-table", explains=GPU_EXPLAINS)
            with Vertical(id="pane-logs", classes="pane"):
                yield RankBar("log of rank", id="log-line")
                yield Search("show lines that contain …", id="log-filter", leads_to="#log", stays=False)
                yield LogView(id="log", filter_line="#log-filter")
            with Vertical(id="pane-notes", classes="pane"):
                yield LogView(id="notes")

    def on_mount(self) -> None:
        """Show what is open."""
        self._adopt()

    def on_screen_resume(self) -> None:
        """Another session may have been opened meanwhile."""
        self._adopt()

    @on(SessionOpened)
    def _adopt(self) -> None:
        session = self.tgs.session
        self.query_one("#nothing").display = session is None
        self.query_one("#live-body").display = session is not None
        if session is None or session is self.session:
            return
        self.session, self._rank, self._log = session, 0, None
        self._show_pane("charts", focus=True)
        self._follow(session)
        self.refresh_bindings()

    @work(thread=True, exclusive=True, group="follow", exit_on_error=False)
    def _follow(self, session: Session) -> None:
        """Fold what comes in, in a thread; the screen is told, never touched."""
        worker: Worker[None] = get_current_worker()
        was_behind = False
        while not worker.is_cancelled:
            began_s, spent_s = time.monotonic(), time.process_time()
            more = session.poll(CATCH_UP_S)
            was_behind |= time.monotonic() - began_s > REPAINT_PERIOD_S
            self.post_message(EventsArrived(session))
            if more:
                continue
            if was_behind:  # what was read is painted before a result is made of it all, which takes 2 s
                _sleep(worker, REPAINT_PERIOD_S)
                was_behind = False
            session.look_at_status()
            if session.is_over:
                session.poll()
                self.post_message(EventsArrived(session))
                return
            if session.is_replay:
                time.sleep(REPLAY_POLL_S)
            else:
                _rest(worker, spent_s)

    @on(EventsArrived)
    def _on_folded(self, message: EventsArrived) -> None:
        if message.session is not self.session:
            return
        wait_s = self._painted_at + REPAINT_PERIOD_S - time.monotonic()
        if wait_s <= 0 or message.session.is_over:
            self.paint()
        else:
            self.set_timer(wait_s, self._paint_if_due)

    @on(HeatView.Resized)
    def _on_room(self) -> None:
        self.paint()

    def _paint_if_due(self) -> None:
        if time.monotonic() - self._painted_at >= REPAINT_PERIOD_S:
            self.paint()

    def paint(self) -> None:
        """Show the session as it is now."""
        session = self.session
        if session is None or not self.is_mounted:
            return
        self._painted_at = time.monotonic()
        with session.lock:
            self._paint_figures(session)
            self._paint_tabs(session)
            self._paint_panes(session)
        if self._was_over != session.is_over:
            self._was_over = session.is_over
            self.refresh_bindings()  # a run that is over cannot be stopped

    def _paint_figures(self, session: Session) -> None:
        headline = session.view.headline()
        self.query_one("#run-line", Line).show(" " + live_text.run_text(session))
        self.query_one("#replay-line", Line).show(
            " " + live_text.replay_text(session) if session.is_replay else ""
        )
        over = session.is_over
        phase = live_text.phase_text(headline, self.size.width - 2, is_over=over)
        self.query_one("#phase-line", Line).show(" " + phase)
        alert = live_text.alert_text(session)
        self.query_one("#alert-line", Line).show(f" {alert}" if alert else "")
        self.query_one(BigFigure).show(
            live_text.big_number(headline),
            live_text.big_title(session, headline),
            live_text.interval_text(headline, is_over=over),
        )
        forecast = live_text.live_forecast_text(session, headline)
        self.query_one("#verdict-line", Line).show(live_text.verdict_text(headline.verdict, forecast))
        for name, (value, note) in live_text.figures(headline, self._convention, is_over=over).items():
            figure = self.query_one(f"#{name}", Figure)
            figure.value, figure.note = value, note
        self.query_one("#tflops", Figure).figure = f"tflops:{self._convention}"

    def _paint_tabs(self, session: Session) -> None:
        """Names of the panes; that of the notes with their number, as a line above cuts the first one."""
        num = live_text.num_notes(session)
        tabs = [(name, f"{label} ({num})" if name == "notes" and num else label) for name, label in PANES]
        bar = Text(" ").append(tab_bar(tabs, self._pane, "screen.pane"))
        self.query_one("#pane-line", Line).show("" if self._wide else bar)

    def _paint_panes(self, session: Session) -> None:
        live = session.view.live
        if self._is_shown("charts"):
            for name, (chart, legend) in live_text.charts(session.view, self._rank).items():
                self.query_one(f"#{name}", ChartView).show(chart, legend)
        if self._is_shown("ranks"):
            view = self.query_one(HeatView)
            shown = heatmap(rows_of(live, self._metric), live.world, self._metric, *view.room)
            view.show(shown, self._metric, f"{self._metric} by rank and step, over the median rank")
        if self._is_shown("gpus"):
            self.query_one("#gpu-table", ListTable).fill(live_text.gpu_rows(live))
        if self._is_shown("notes"):
            notes = self.query_one("#notes", LogView)
            lines = live_text.wrapped(tuple(live_text.note_lines(session)), notes.size.width - NUMBER_WIDTH)
            notes.show(lines, "no warnings, no errors")
        if self._is_shown("logs"):
            self._paint_log(session)

    def _paint_log(self, session: Session) -> None:
        view = self.query_one("#log", LogView)
        path = session.run.log_dir / f"rank{self._rank:05}.log"
        if self._log is None or self._log.path != path:
            self._log = LogTail(path)
            self._log.poll()
            view.show(self._log.lines, f"rank {self._rank} has written no log")
        elif self._log.poll():
            view.show(self._log.lines, f"rank {self._rank} has written no log")
        live = session.view.live
        found = f"{view.num_shown} lines with {view.filter_text!r}" if view.filter_text else ""
        cut = "its end alone" if self._log.cut else ""
        note = "  ".join(filter(None, (live.ranks[self._rank].host, cut, found, LOG_KEYS)))
        self.query_one("#log-line", RankBar).show_ranks(self._rank, live.world, note)

    def _is_shown(self, pane: str) -> bool:
        return bool(self.query_one(f"#pane-{pane}").display)

    # Panes

    def _show_pane(self, pane: str, *, focus: bool) -> None:
        self._pane = pane
        wide = self.has_class("-wide") and self.has_class("-tall")
        for name, _ in PANES:
            self.query_one(f"#pane-{name}").display = wide or name == pane
        self._wide = wide
        if focus:
            self._focus_pane(pane)
        self.call_after_refresh(self.paint)  # sizes of panes are known only then

    def _focus_pane(self, pane: str) -> None:
        targets = {
            "charts": "#chart-tgs",
            "ranks": "#heat",
            "gpus": "#gpu-table",
            "logs": "#log",
            "notes": "#notes",
        }
        self.query_one(targets[pane]).focus(scroll_visible=False)

    def on_resize(self) -> None:
        """Panes side by side where there is room."""
        self.call_after_refresh(self._show_pane, self._pane, focus=False)

    def action_pane(self, pane: str) -> None:
        """Go to a pane."""
        self._show_pane(pane, focus=True)

    def _neighbour(self, by: int) -> str:
        names = [name for name, _ in PANES]
        return names[(names.index(self._pane) + by) % len(names)]

    def action_next_pane(self) -> None:
        """Go to the next pane."""
        self._show_pane(self._neighbour(1), focus=True)

    def action_previous_pane(self) -> None:
        """Go to the pane before."""
        self._show_pane(self._neighbour(-1), focus=True)

    # What is shown

    def _turn_rank(self, by: int) -> None:
        if self.session is not None:
            self._rank = (self._rank + by) % self.session.view.live.world
            self.paint()

    @on(RankBar.Chosen)
    def _choose_rank(self, message: RankBar.Chosen) -> None:
        self._rank = message.rank
        self.paint()

    def action_next_rank(self) -> None:
        """Look at the next rank."""
        self._turn_rank(1)

    def action_previous_rank(self) -> None:
        """Look at the rank before."""
        self._turn_rank(-1)

    def action_convention(self) -> None:
        """Count TFLOPs in the next convention."""
        names = list(CONVENTIONS)
        self._convention = names[(names.index(self._convention) + 1) % len(names)]
        self.paint()

    def action_metric(self) -> None:
        """Show another figure in the heatmap."""
        names = list(METRICS)
        self._metric = names[(names.index(self._metric) + 1) % len(names)]
        self._show_pane("ranks", focus=False)

    def action_first_error(self) -> None:
        """Jump to the first error in any rank's log; the rank whose error event came first goes first."""
        if self.session is None:
            return
        live, log_dir = self.session.view.live, self.session.run.log_dir
        failed = sorted((s for s in live.ranks if s.error), key=lambda s: s.error.t if s.error else 0.0)
        order = [s.rank for s in failed] + [s.rank for s in live.ranks if not s.error]
        num_cut = 0
        for rank in order:
            tail = LogTail(log_dir / f"rank{rank:05}.log")
            tail.poll()
            num_cut += tail.cut
            line = tail.first_error()
            if line is not None:
                self._rank, self._log = rank, None
                self.query_one("#log-filter", Search).lift()  # it may hide the line
                self.query_one("#log", LogView).set_filter("")
                self._show_pane("logs", focus=True)
                self._paint_log(self.session)
                self.query_one("#log", LogView).jump_to(line)
                return
        where = f"; only the end of {counted(num_cut, 'long log')} was searched" if num_cut else ""
        self.notify(f"no error in any rank's log{where}")

    # Log filter

    @on(Input.Changed, "#log-filter")
    def _filter_log(self, message: Input.Changed) -> None:
        self.query_one("#log", LogView).set_filter(message.value)
        self.paint()

    # The run

    def action_stop(self) -> None:
        """Ask what to do with the run, then do it."""
        session = self.session
        if session is None or session.is_replay or session.is_over:
            self.notify("no run is going on here")
            return
        self.app.push_screen(
            Choice(
                f"Stop {session.run.run_id}?",
                "Steps that are finished are in the event files already. Ranks end within seconds.",
                STOP_CHOICES,
            ),
            self._stop,
        )

    def _stop(self, choice: str | None) -> None:
        session = self.session
        if session is None or choice not in ("keep", "discard"):
            return
        if not detached.stop(session.run):
            self.notify("its supervisor does not live on this machine", severity="warning")
            return
        self.notify("stopping: the ranks are asked to end")
        if choice == "discard":
            self._discard_when_over(session)

    @work(thread=True, group="discard", exit_on_error=False)
    def _discard_when_over(self, session: Session) -> None:
        deadline = time.monotonic() + DISCARD_PATIENCE_S
        while not session.is_over and time.monotonic() < deadline:
            time.sleep(0.2)
        try:
            detached.discard(session.run)
        except TgsError as error:
            self.app.call_from_thread(self.notify, error.msg, severity="error")
        else:
            self.app.call_from_thread(self.tgs.close_session, f"{session.run.run_id} was deleted")

    def action_profile(self) -> None:
        """Look at this run's profile."""
        if self.session is not None:
            self.tgs.open_profile(self.session.run)

    def action_copy(self) -> None:
        """Copy the result in some form."""
        if self.session is not None:
            self.tgs.copy_menu(self.session.run)

    def explain_figure(self, figure: str) -> Explanation | None:
        """What `?` says about a figure of this screen."""
        session = self.session
        if session is None:
            return None
        with session.lock:
            headline = session.view.headline()
            explained = explain(figure, session.view, headline)
            forecast = live_text.live_forecast_text(session, headline)
        if figure == "verdict" and explained is not None and forecast:
            explained.inputs.append(("forecast before the run", f"{forecast}; `tgsbench plan` says how"))
        return explained

    # Replay

    @property
    def _replay(self) -> ReplayFeed | None:
        feed = self.session.feed if self.session is not None else None
        return feed if isinstance(feed, ReplayFeed) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Replay keys exist in a replay only; nothing can be stopped there."""
        if action in ("pause", "faster", "slower", "next_step", "skip", "restart"):
            return self._replay is not None
        if action == "stop":
            return self.session is not None and self._replay is None and not self.session.is_over
        return True

    def action_pause(self) -> None:
        """Pause or go on."""
        if feed := self._replay:
            feed.paused = not feed.paused

    def action_faster(self) -> None:
        """Double the speed."""
        if feed := self._replay:
            feed.faster(2)

    def action_slower(self) -> None:
        """Halve the speed."""
        if feed := self._replay:
            feed.faster(0.5)

    def action_skip(self) -> None:
        """Jump a tenth of the run ahead."""
        if feed := self._replay:
            feed.skip(feed.replay.duration_s / 10)

    def action_next_step(self) -> None:
        """Jump ahead by one median step."""
        if (feed := self._replay) and self.session is not None:
            step_s = self.session.view.headline().step_s
            feed.skip(step_s or feed.replay.duration_s / 50)

    def action_restart(self) -> None:
        """Play from the beginning."""
        if self._replay and self.session is not None:
            with contextlib.suppress(OSError):
                self.session.restart_replay()
                self._follow(self.session)


def _rest(worker: Worker[None], spent_before_s: float) -> None:
    """Wait for the next look at a run that goes on, longer where this one and its painting were dear."""
    _sleep(worker, LIVE_POLL_S)  # meanwhile it is painted
    due_s = (time.process_time() - spent_before_s) / WATCHING_SHARE
    _sleep(worker, min(max(due_s, LIVE_POLL_S), LONGEST_POLL_S) - LIVE_POLL_S)


def _sleep(worker: Worker[None], seconds: float) -> None:
    """In naps: whoever leaves the UI waits for its threads."""
    until_s = time.monotonic() + seconds
    while not worker.is_cancelled and (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(left_s, NAP_S))


GPU_COLUMNS = (
    ("rank", "rank", 4),
    ("host", "host", 10),
    ("phase", "phase", 8),
    ("step", "step", 5),
    ("mem", "mem GiB", 7),
    ("util", "GPU", 9),
    ("power", "power", 5),
    ("temp", "temp", 5),
    ("clock", "clock", 8),
    ("throttled", "throttled", 22),
)
GPU_EXPLAINS = {
    "mem": "mem",
    "util": "gpu",
    "power": "gpu",
    "temp": "gpu",
    "clock": "gpu",
    "throttled": "gpu",
}
