"""The Textual app: modes, the open session, and the ways in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App
from textual.binding import BindingType
from textual.command import Provider
from textual.filter import LineFilter, NoColor
from textual.notifications import SeverityLevel
from textual.screen import ModalScreen, Screen
from textual.worker import Worker, WorkerState

from tgsbench.errors import TgsError, nearest
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import clipboard, launching, recorded
from tgsbench.tui.actions import Scope, bindings
from tgsbench.tui.ascii import AsciiFilter
from tgsbench.tui.config import UiConfig, config_path, load_config, save_config
from tgsbench.tui.contrast import ContrastFilter
from tgsbench.tui.harmless import HarmlessFilter
from tgsbench.tui.messages import SessionOpened
from tgsbench.tui.screens import dialogs
from tgsbench.tui.stylesheet import SteadyStylesheet
from tgsbench.tui.tensorboard import TensorBoard

if TYPE_CHECKING:
    from tgsbench.live.session import Session
    from tgsbench.tui.tuning import TuneProcess
    from tgsbench.tune.asking import TuneWords

_FONTS = re.compile(r"@font-face\s*\{.*?\}", re.S)


def _screen(module: str, name: str) -> Callable[[], Screen[Any]]:
    """Import a screen when it is first shown, so that the first paint waits for one screen only."""

    def make() -> Screen[Any]:
        from importlib import import_module

        made: Screen[Any] = getattr(import_module(f"tgsbench.tui.screens.{module}"), name)()
        return made

    return make


def _palette() -> type[Provider]:
    from tgsbench.tui.palette import TgsCommands

    return TgsCommands


class TgsApp(App[int]):
    """The terminal UI of tgsbench."""

    TITLE = "tgsbench"
    CSS_PATH = "styles/app.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_palette}
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "presets": _screen("presets", "PresetsScreen"),
        "runs": _screen("runs", "RunsScreen"),
        "live": _screen("live", "LiveScreen"),
        "profile": _screen("profile", "ProfileScreen"),
        "doctor": _screen("doctor", "DoctorScreen"),
    }

    def __init__(
        self, *, runs_root: Path | None = None, ascii_only: bool = False, opens: Session | None = None
    ) -> None:
        self.ascii_only = ascii_only or _terminal_is_ascii()
        super().__init__()
        self.stylesheet = SteadyStylesheet(variables=self.get_css_variables())
        self.runs_root = run_dir.runs_root(runs_root)
        self.session = opens
        self.config: UiConfig = load_config()
        self._extra_filters: list[LineFilter] = [ContrastFilter(), HarmlessFilter()]
        if self.ascii_only:
            self._extra_filters.append(AsciiFilter())
        if self.no_color:
            self._extra_filters.append(NoColor())
        self._opened = {opens.run.path: opens.run} if opens is not None else {}
        self._launching = False
        self.profile_run: RunDir | None = None
        self.tensorboard: TensorBoard | None = None
        self._tunes: dict[str, TuneProcess] = {}

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, contrast, the gate for texts of files; NO_COLOR leaves not even grey."""
        return [*super().get_line_filters(), *self._extra_filters]

    def on_mount(self) -> None:
        """Apply the settings and show the first screen."""
        if self.config.theme in self.available_themes:
            self.theme = self.config.theme
        else:
            known = nearest(self.config.theme, self.available_themes)
            self.config.problems.append(f"{config_path()}: no theme called {self.config.theme!r}; {known}")
        self.theme_changed_signal.subscribe(self, lambda theme: self._remember_theme(theme.name))
        self.set_keymap(self.config.keys)
        self.set_class(self.ascii_only, "-ascii")
        self.switch_mode("live" if self.session is not None else "presets")
        for problem in self.config.problems:
            self.notify(problem, title="settings: the defaults hold", severity="warning", timeout=10)
        if self.session is None and not self.config.welcomed:
            self.call_after_refresh(self.action_welcome)

    def _remember_theme(self, name: str) -> None:
        if name != self.config.theme:
            self.config.theme = name
            save_config(self.config)

    def _print_error_renderables(self) -> None:
        """Print no traceback over the user's terminal: `open_app` hands the exception on."""
        self._exit_renderables.clear()

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Say that a background task failed: nobody would ever see what it was to bring."""
        if message.state is WorkerState.ERROR:
            error = message.worker.error
            what = f"{message.worker.name}: {type(error).__name__}: {error}"
            self.notify(what, title="a bug in tgsbench", severity="error", timeout=20)

    # Opening things

    def going_on(self) -> list[RunDir]:
        """Runs that were open here and go on without the UI."""
        return [run for run in self._opened.values() if _is_alive(run)]

    def open_session(self, opened: Session) -> None:
        """Show a session in the live screen."""
        self.session = opened
        self._opened[opened.run.path] = opened.run
        self.switch_mode("live")
        self.call_after_refresh(lambda: self.screen.post_message(SessionOpened()))

    def close_session(self, why: str) -> None:
        """Forget the open session, as its run is gone."""
        self.session = None
        self.switch_mode("runs")
        self.notify(why)

    def forget_run(self, run: RunDir) -> None:
        """Hold on to nothing of a run that was deleted."""
        self._opened.pop(run.path, None)
        if self.session is not None and self.session.run.path == run.path:
            self.session = None
        if self.profile_run is not None and self.profile_run.path == run.path:
            self.profile_run = None

    def open_run(self, run: RunDir) -> None:
        """Follow a run, or look at one that is over."""
        from tgsbench.live import session  # the fold and the figures: the list of presets waits for neither

        self._try(lambda: self.open_session(session.follow(run)))

    def replay_run(self, run: RunDir, speed: float) -> None:
        """Play a stored run again."""
        from tgsbench.live import session

        self._try(lambda: self.open_session(session.replay(run, speed)))

    def edit_preset(self, name: str) -> None:
        """Open a preset in the form."""
        from tgsbench.tui.screens.form import PresetForm

        self._try(lambda: self._push(PresetForm(name)))

    def show_forecast(self, preset: Preset, base: str, assignments: Sequence[str]) -> None:
        """Show what the planner says of a preset: `base` with `assignments` over it."""
        from tgsbench.tui.screens.forecast import ForecastScreen

        self._push(ForecastScreen(preset, base, assignments))

    def ask_tune(self, base: str, held: Sequence[str]) -> None:
        """Ask for a tune of a preset, `held` held fast; show the one that goes on where there is one.

        One at a time: two would share the machine and spoil each other's trials.
        """
        from tgsbench.tui.screens.tune_form import TuneForm
        from tgsbench.tune import state

        if going := state.going_on(self.runs_root):
            self.notify(f"{going[0]} goes on: one tune at a time")
            self.open_tune(going[0])
        else:
            self._try(lambda: self._push(TuneForm(base, held)))

    def start_tune(self, words: TuneWords) -> None:
        """Start a tune in a process of its own and show it."""
        from tgsbench.tui.tuning import TuneProcess

        try:
            started = TuneProcess(words, self.runs_root)
        except TgsError as error:
            self._say(error)
            return
        while isinstance(self.screen, ModalScreen):  # the form, and one that it was opened from
            self.pop_screen()
        self._show_tune(started.name, started)

    def open_tune(self, name: str) -> None:
        """Show a tune of the folder of runs."""
        self._show_tune(name, None)

    def _show_tune(self, name: str, started: TuneProcess | None) -> None:
        from tgsbench.tui.screens.tune import TuneScreen

        if started is not None:
            self._tunes[name] = started
        self.switch_mode("presets")
        if isinstance(self.screen, TuneScreen):
            self.pop_screen()
        self._push(TuneScreen(name, self._tunes.get(name)))

    def _push(self, screen: Screen[None]) -> None:
        self.push_screen(screen)

    def launch(self, preset: Preset, *, rehearse: bool = False) -> None:
        """Prepare a run folder, start its supervisor in a session of its own, show it live.

        One at a time: two runs started by a key pressed twice would share the GPUs and spoil each other.
        """
        if self._launching:
            return
        self._launching = True
        self.notify(f"starting {preset.name} …", timeout=2)
        self._launch(preset, rehearse)

    @work(thread=True, group="launch", exit_on_error=False)
    def _launch(self, preset: Preset, rehearse: bool) -> None:
        try:
            opened = launching.launch(preset, self.runs_root, rehearse=rehearse)
        except TgsError as error:
            self.call_from_thread(self._say, error)
        else:
            self.call_from_thread(self._launched, opened)
        finally:
            self._launching = False

    def _launched(self, opened: Session) -> None:
        if isinstance(self.screen, ModalScreen):  # the form: it stays while what it asks cannot be started
            self.screen.dismiss()
        self.open_session(opened)

    def _say(self, error: TgsError) -> None:
        self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", timeout=10)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Show a message; never as markup, since names and reasons come from files."""
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=False)

    def open_profile(self, run: RunDir) -> None:
        """Show a run's profile."""
        self.profile_run = run
        self.switch_mode("profile")

    def start_tensorboard(self, run: RunDir) -> TensorBoard:
        """Start TensorBoard on a run's traces, on loopback, in place of an earlier one; ends with the UI."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        self.tensorboard = TensorBoard(run)
        return self.tensorboard

    def on_unmount(self) -> None:
        """Nothing that was started for looking at outlives the UI; runs do."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def _try(self, work: Callable[[], None]) -> None:
        """Do it, or say why it cannot be done."""
        try:
            work()
        except TgsError as error:
            self._say(error)

    def copy_menu(self, run: RunDir) -> None:
        """Ask in which form to copy a run, then copy it."""
        from tgsbench.tui import copies

        def copy(form: str | None) -> None:
            if form:
                self._try(lambda: self._copied(copies.render(run, form), form))

        self.push_screen(dialogs.Choice("Copy this run as", "", copies.FORMS), copy)

    def _copied(self, text: str, form: str) -> None:
        self.put_on_clipboard(text, f"as {form}")

    def put_on_clipboard(self, text: str, what: str) -> None:
        """Copy by OSC 52 first, which reaches the user's own machine, then by what this machine offers."""
        self.copy_to_clipboard(text)
        self._copy_here(text, what)

    @work(thread=True, exit_on_error=False)
    def _copy_here(self, text: str, what: str) -> None:
        where = clipboard.also_put(text, config_path().parent)
        also = f"; also in {where}" if where else ""
        say = f"copied {what}: {len(text)} characters, by OSC 52{also}"
        self.call_from_thread(self.notify, say, timeout=4)

    # Actions of the registry

    def action_mode(self, mode: str) -> None:
        """Go to a main screen."""
        if not isinstance(self.screen, dialogs.Choice | dialogs.Reading):
            self.switch_mode(mode)

    def action_explain(self) -> None:
        """Explain what is focused."""
        ask = getattr(self.screen, "explain_figure", None)
        columns: dict[str, str] = getattr(self.focused, "explained", {}) or {}
        figure = str(getattr(self.focused, "figure", "") or "")
        if ask is None or not figure:
            self.notify("Focus a figure first: tab goes from one to the next, then ? explains it.")
        elif len(columns) > 1:
            found = {title: ask(name) for title, name in columns.items()}
            self.push_screen(dialogs.explanations({k: v for k, v in found.items() if v is not None}))
        elif (explained := ask(figure)) is not None:
            self.push_screen(dialogs.explanation(explained))

    def action_help(self) -> None:
        """List the keys that work here."""
        scopes: tuple[Scope, ...] = getattr(self.screen, "scopes", ())
        if scopes:
            self.push_screen(dialogs.key_help([*scopes, "app"], self.config.keys))

    def action_welcome(self) -> None:
        """Offer the three ways to begin."""
        self.config.welcomed = True
        save_config(self.config)
        text = "tgsbench measures how fast language models train on long sequences. Three ways to begin:"
        self.push_screen(dialogs.Choice("Welcome to tgsbench", text, recorded.WELCOME), self._begin)

    def _begin(self, choice: str | None) -> None:
        if choice == "replay":
            self.replay_run(RunDir(recorded.recording()), recorded.SPEED)
        elif choice == "doctor":
            self.switch_mode("doctor")
        elif choice == "preset":
            self.switch_mode("presets")
            self.call_after_refresh(self._choose_fitting)

    def _choose_fitting(self) -> None:
        choose = getattr(self.screen, "choose_fitting", None)
        if choose is not None:
            choose()

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """The screen as SVG, which asks nobody for a font: Textual's own names one on another host."""
        return _FONTS.sub("", super().export_screenshot(title=title, simplify=simplify))

    def action_screenshot_svg(self) -> None:
        """Save this screen as an SVG picture beside the runs."""
        folder = self.runs_root if self.runs_root.is_dir() else Path.cwd()
        try:
            path = self.save_screenshot(path=str(folder))
        except OSError as error:
            self.notify(f"cannot write to {folder}: {error.strerror}", severity="error")
        else:
            self.notify(f"saved {path}")


def _is_alive(run: RunDir) -> bool:
    try:
        return run.is_alive()
    except TgsError:  # its folder was deleted or damaged meanwhile
        return False


def _terminal_is_ascii() -> bool:
    """Linux's bare console and terminals that say they are dumb have no braille."""
    return os.environ.get("TERM", "") in ("dumb", "linux")


def open_app(
    *, runs_root: Path | None = None, ascii_only: bool = False, opens: Session | None = None
) -> list[RunDir]:
    """Run the UI until it is left; the runs that were open in it and go on.

    Raises what a bug raised in it, once the terminal is the user's again.
    """
    app = TgsApp(runs_root=runs_root, ascii_only=ascii_only, opens=opens)
    app.run()
    if app._exception is not None:
        raise app._exception
    return app.going_on()


def open_live(path: Path, *, ascii_only: bool = False) -> list[RunDir]:
    """Open the live view of a run; a run that was only prepared is started first.

    Raises TgsError when the run cannot be read, and what a bug raised in the UI.
    """
    run = RunDir(path)
    return open_app(runs_root=path.parent, ascii_only=ascii_only, opens=launching.start(run))
