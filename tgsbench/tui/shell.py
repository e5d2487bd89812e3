"""What screens and the palette may ask of the app, so that they need not import it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from textual.app import App
from textual.worker import Worker

from tgsbench.schema.preset import Preset
from tgsbench.store.run_dir import RunDir
from tgsbench.tui.config import UiConfig
from tgsbench.tui.tensorboard import TensorBoard

if TYPE_CHECKING:
    from tgsbench.live.session import Session
    from tgsbench.tune.asking import TuneWords


class Shell(Protocol):
    """The app as its screens see it; `TgsApp` is the one that there is."""

    config: UiConfig
    runs_root: Path
    session: Session | None
    profile_run: RunDir | None

    def action_mode(self, mode: str) -> None:
        """Go to a main screen."""

    def ask_tune(self, base: str, held: Sequence[str]) -> None:
        """Ask for a tune of a preset, `held` held fast; show the one that goes on where there is one."""

    def close_session(self, why: str) -> None:
        """Forget the open session, as its run is gone."""

    def copy_menu(self, run: RunDir) -> None:
        """Ask in which form to copy a run, then copy it."""

    def edit_preset(self, name: str) -> None:
        """Open a preset in the form."""

    def forget_run(self, run: RunDir) -> None:
        """Hold on to nothing of a run that was deleted."""

    def launch(self, preset: Preset, *, rehearse: bool = False) -> None:
        """Start a run and show it live."""

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Say that a background task failed."""

    def open_profile(self, run: RunDir) -> None:
        """Show a run's profile."""

    def open_run(self, run: RunDir) -> None:
        """Follow a run, or look at one that is over."""

    def open_tune(self, name: str) -> None:
        """Show a tune of the folder of runs."""

    def start_tune(self, words: TuneWords) -> None:
        """Start a tune in a process of its own and show it."""

    def put_on_clipboard(self, text: str, what: str) -> None:
        """Copy a text, by every way there is."""

    def replay_run(self, run: RunDir, speed: float) -> None:
        """Play a stored run again."""

    def show_forecast(self, preset: Preset, base: str, assignments: Sequence[str]) -> None:
        """Show what the planner says of a preset: `base` with `assignments` over it."""

    def start_tensorboard(self, run: RunDir) -> TensorBoard:
        """Start TensorBoard on a run's traces; it ends with the UI."""


def shell(app: App[Any]) -> Shell:
    """The running app, with its own type."""
    return cast("Shell", app)
