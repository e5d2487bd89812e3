"""The command palette: every action that works here, every preset, every run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from tgsbench import presets
from tgsbench.store import run_dir
from tgsbench.tui.actions import ACTIONS, SCOPE_TITLES
from tgsbench.tui.screens.dialogs import show_key

if TYPE_CHECKING:
    from tgsbench.tui.app import TgsApp

MAX_RUNS = 500
"""Newest runs that the palette offers; the run list has the rest."""

Command = tuple[str, Any, str]
"""Text, what to call, help."""


class Everything(Provider):
    """Actions of the registry first, then presets, then runs."""

    @property
    def tgs(self) -> TgsApp:
        """The app, with its own type."""
        from tgsbench.tui.app import TgsApp

        assert isinstance(self.app, TgsApp)
        return self.app

    async def startup(self) -> None:
        """Collect once, when the palette opens."""
        self._commands = [*self._actions(), *self._presets(), *self._runs()]

    async def discover(self) -> Hits:
        """What is offered before anything is typed: the actions."""
        for text, call, help_text in self._actions():
            yield DiscoveryHit(Content(text), call, text=text, help=help_text)

    async def search(self, query: str) -> Hits:
        """Fuzzy matches."""
        matcher = self.matcher(query)
        for text, call, help_text in self._commands:
            score = matcher.match(text)
            if score > 0:  # plain content: a folder called "[red]" is a name, not markup
                yield Hit(score, Content(text), call, text=text, help=help_text)

    def _actions(self) -> Iterator[Command]:
        scopes = {"app", self.app.current_mode}
        if self.app.current_mode == "live":
            scopes.add("replay")
        for action in ACTIONS:
            if action.scope in scopes and action.in_palette and self._works(action.method):
                keys = self.tgs.config.keys.get(action.name, action.keys)
                text = f"{SCOPE_TITLES[action.scope]}: {action.label}  [{show_key(keys.split(',')[0])}]"
                target = self.app if action.scope == "app" else self.screen
                yield text, partial(self._run, action.method, target), action.help

    def _works(self, method: str) -> bool:
        return self.screen.check_action(method.partition("(")[0], ()) is not False

    async def _run(self, method: str, target: Any) -> None:
        await self.app.run_action(method, target)

    def _presets(self) -> Iterator[Command]:
        for name in presets.list_presets():
            yield f"Preset: {name}", partial(self.tgs.edit_preset, name), "Open it in the form."

    def _runs(self) -> Iterator[Command]:
        for run in run_dir.list_runs(self.tgs.runs_root)[:MAX_RUNS]:
            yield f"Run: {run.run_id}", partial(self.tgs.open_run, run), "Open it."
