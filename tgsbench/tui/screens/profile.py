"""Where the step's time goes: shares, kernels, collectives, findings of a captured profile."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import msgspec
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid, Vertical
from textual.widgets import DataTable, Static

from tgsbench.errors import TgsError
from tgsbench.schema.hotspots import Profile
from tgsbench.store import profiles
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import analyses, profile_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.screens.base import ModeScreen, tab_bar
from tgsbench.tui.screens.dialogs import Page
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.table import ListTable

SHARE_COLUMNS = (
    ("part", "part of the step", 21),
    ("bar", "share ░ hidden", profile_rows.BAR),
    ("share", "share", 6),
    ("ms", "a step", 8),
    ("exposed", "exposed", 8),
    ("hidden", "hidden", 8),
)
KERNEL_COLUMNS = (
    ("name", "kernel or operator", profile_rows.NAME_WIDTH),
    ("kind", "part", 21),
    ("total", "a step", 8),
    ("share", "share", 6),
    ("calls", "calls", 7),
    ("mean", "mean", 8),
    ("p95", "p95", 8),
    ("tflops", "TFLOPs", 12),
)
COLLECTIVE_COLUMNS = (
    ("name", "collective", 14),
    ("group", "group", 6),
    ("calls", "calls", 7),
    ("bytes", "bytes", 10),
    ("exposed", "exposed", 8),
    ("hidden", "hidden", 8),
    ("bandwidth", "bus GB/s", 12),
)
PANES = (
    ("shares", "S Shares"),
    ("kernels", "K Kernels"),
    ("collectives", "C Collectives"),
    ("findings", "F Findings"),
)
NO_RUN = (
    "No profile is open.\n\n"
    "Choose a run in the list (2) and press p, there or in the live view (3).\n"
    "A run captures one with a capture recipe: set capture in the form, or\n"
    "  tgsbench run --preset NAME --profile hotspots"
)


class ProfileScreen(ModeScreen):
    """Shows the app's `profile_run`."""

    mode_name = "profile"
    scopes = ("profile", "list")
    BINDINGS: ClassVar[list[BindingType]] = bindings("profile")

    def __init__(self) -> None:
        super().__init__()
        self._run: RunDir | None = None
        self._profile: Profile | None = None
        self._rank: int | None = None
        """None: all ranks together."""
        self._pane = "shares"
        self._server_run = ""
        """Folder of the run that TensorBoard shows, or is about to; empty: none."""

    def compose_body(self) -> ComposeResult:
        """One line, panes; a text instead while there is nothing."""
        yield Line(NO_RUN, id="profile-nothing")
        with Vertical(id="profile-body"):
            yield Line("", id="profile-line")
            yield Line("", id="profile-server")
            yield Line("", id="profile-panes-line")
            with Grid(id="profile-panes"):
                yield ListTable(SHARE_COLUMNS, id="pane-shares", explains=SHARE_EXPLAINS)
                yield ListTable(KERNEL_COLUMNS, id="pane-kernels", explains=KERNEL_EXPLAINS)
                yield ListTable(COLLECTIVE_COLUMNS, id="pane-collectives", explains=COLLECTIVE_EXPLAINS)
                with Page(id="pane-findings"):
                    yield Static("", id="findings", markup=False)
            yield Static("", id="profile-kernel", markup=False)

    def on_mount(self) -> None:
        """Show what was asked for."""
        self._adopt()

    def on_screen_resume(self) -> None:
        """Another run may have been asked for."""
        self._adopt()

    def _adopt(self) -> None:
        session = self.tgs.session
        run = self.tgs.profile_run or (session.run if session is not None else None)
        if run is None or (self._run is not None and run.path == self._run.path and self._profile):
            self._paint()
            return
        self._run, self._profile, self._rank = run, None, None
        self._say(f"reading the profile of {run.run_id} …")
        self._load(run)

    @work(thread=True, exclusive=True, group="profile", exit_on_error=False)
    def _load(self, run: RunDir) -> None:
        try:
            found = profiles.stored_profile(run) or analyses.analyse_in_background(run)
        except TgsError as error:
            self.app.call_from_thread(self._say, f"{error.msg}\n{error.hint}")
            return
        self.app.call_from_thread(self._loaded, run, found)

    def _loaded(self, run: RunDir, found: Profile | None) -> None:
        if run is not self._run:
            return
        if found is None:
            self._say(f"{run.run_id} has no profile.\n\n{NO_RUN}")
            return
        self._profile = found
        self._paint()
        self._show_pane(self._pane)

    def _say(self, text: str) -> None:
        self.query_one("#profile-nothing", Line).show(text)
        self.query_one("#profile-body").display = False

    def _paint(self) -> None:
        profile = self._profile
        self.query_one("#profile-body").display = profile is not None
        if profile is None:
            return
        self.query_one("#profile-nothing").display = False
        scope = profile_rows.scope_of(profile, self._rank)
        self.query_one("#profile-line", Line).show(" " + profile_rows.headline(profile, self._rank))
        self.query_one("#pane-shares", ListTable).fill(profile_rows.share_rows(scope))
        self.query_one("#pane-kernels", ListTable).fill(profile_rows.kernel_rows(scope))
        self.query_one("#pane-collectives", ListTable).fill(profile_rows.collective_rows(scope))
        self.query_one("#findings", Static).update(profile_rows.findings(profile))

    @on(DataTable.RowHighlighted, "#pane-kernels")
    def _show_kernel(self) -> None:
        """Spell out the kernel under the cursor: names are longer than any column."""
        shown = self.query_one("#profile-kernel", Static)
        shown.display = bool(self.query_one("#pane-kernels").display)
        if self._profile is not None:
            scope = profile_rows.scope_of(self._profile, self._rank)
            key = self.query_one("#pane-kernels", ListTable).selected_key
            shown.update(profile_rows.kernel_line(scope, key))

    def _show_pane(self, pane: str) -> None:
        self._pane = pane
        wide = self.has_class("-wide") and self.has_class("-tall")
        for name, _ in PANES:
            self.query_one(f"#pane-{name}").display = wide or name == pane
        tabs = tab_bar(PANES, pane, "screen.pane")
        self.query_one("#profile-panes-line", Line).show("" if wide else Text(" ").append(tabs))
        self._show_kernel()
        if self._profile is not None:
            self.query_one(f"#pane-{pane}").focus(scroll_visible=False)

    def on_resize(self) -> None:
        """Panes side by side where there is room."""
        self.call_after_refresh(self._show_pane, self._pane)

    def _turn_pane(self, by: int) -> None:
        names = [name for name, _ in PANES]
        self._show_pane(names[(names.index(self._pane) + by) % len(names)])

    def action_pane(self, pane: str) -> None:
        """Go to a table."""
        self._show_pane(pane)

    def action_next_pane(self) -> None:
        """Go to the next table."""
        self._turn_pane(1)

    def action_previous_pane(self) -> None:
        """Go to the table before."""
        self._turn_pane(-1)

    def _turn_rank(self, by: int) -> None:
        if self._profile is None:
            return
        ranks: list[int | None] = [None, *(found.rank for found in self._profile.ranks)]
        self._rank = ranks[(ranks.index(self._rank) + by) % len(ranks)]
        self._paint()

    def action_next_rank(self) -> None:
        """All ranks, then each of them."""
        self._turn_rank(1)

    def action_previous_rank(self) -> None:
        """The other way round."""
        self._turn_rank(-1)

    def action_copy(self) -> None:
        """Copy the analysis as JSON."""
        if self._profile is not None:
            encoded = msgspec.json.format(msgspec.json.encode(self._profile), indent=2)
            self.tgs.put_on_clipboard(encoded.decode(), "the analysis as JSON")

    def action_tensorboard(self) -> None:
        """Start TensorBoard on the traces; its address is shown."""
        if self._run is None or not profiles.has_traces(self._run):
            self.notify("this run has no traces to show in TensorBoard")
            return
        if self._server_run == str(self._run.path):
            self.notify("it is up already, or coming up: see the line above the tables")
            return
        self._server_run = str(self._run.path)
        self._serve(self._run)

    @work(thread=True, exclusive=True, group="tensorboard", exit_on_error=False)
    def _serve(self, run: RunDir) -> None:
        say = self._say_server
        self.app.call_from_thread(say, f"starting TensorBoard on {run.run_id} …")
        try:
            server = self.tgs.start_tensorboard(run)
            address = server.address()
        except (TgsError, OSError) as error:
            self._server_run = ""
            self.app.call_from_thread(say, f"✗ {error.msg if isinstance(error, TgsError) else error}")
            return
        self.app.call_from_thread(say, f"TensorBoard: {address}   (this machine only; ends with the UI)")
        server.drain()
        self._server_run = ""
        with contextlib.suppress(RuntimeError):  # the UI is ending, the server with it
            self.app.call_from_thread(say, "TensorBoard has ended; B starts it again")

    def _say_server(self, text: str) -> None:
        self.query_one("#profile-server", Line).show(f" {text}")


SHARE_EXPLAINS = {"share": "profile_share", "exposed": "profile_exposed", "hidden": "profile_hidden"}
KERNEL_EXPLAINS = {"total": "profile_kernel", "tflops": "profile_tflops"}
COLLECTIVE_EXPLAINS = {
    "exposed": "profile_exposed",
    "hidden": "profile_hidden",
    "bandwidth": "profile_bandwidth",
}
