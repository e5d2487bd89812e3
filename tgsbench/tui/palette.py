"""The command palette: every action that works here, every preset, every run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from tgsbench import presets
from tgsbench.store import run_dir
from tgsbench.tui.actions import ACTIONS, SCOPE_TITLES, Action, Scope
from tgsbench.tui.screens.dialogs import show_key
from tgsbench.tui.shell import Shell, shell
from tgsbench.tune import state

MODE_OF: dict[Scope, Scope] = {
    "presets": "presets", "form": "presets", "forecast": "presets", "tuneform": "presets",
    "tune": "presets", "live": "live", "replay": "live",
    "profile": "profile", "runs": "runs", "compare": "runs", "doctor": "doctor",
}  # fmt: skip
"""Main screen from which an action's own one is reached."""
MAX_RUNS = 500
"""Newest runs that the palette offers; the run list has the rest."""

Command = tuple[str, Any, str]
"""Text, what to call, help."""


class TgsCommands(Provider):
    """Actions of the registry first, then presets, then runs."""

    @property
    def tgs(self) -> Shell:
        """The app, with its own type."""
        return shell(self.app)

    async def startup(self) -> None:
        """Collect once, when the palette opens."""
        self._here = [*self._actions()]
        self._commands = [*self._here, *self._elsewhere(), *self._presets(), *self._tunes(), *self._runs()]

    async def discover(self) -> Hits:
        """What is offered before anything is typed: the actions that work here."""
        for text, call, help_text in self._here:
            yield DiscoveryHit(Content(text), call, text=text, help=help_text)

    async def search(self, query: str) -> Hits:
        """Fuzzy matches."""
        matcher = self.matcher(query)
        for text, call, help_text in self._commands:
            score = matcher.match(text)
            if score > 0:  # plain content: a folder called "[red]" is a name, not markup
                yield Hit(score, Content(text), call, text=text, help=help_text)

    @property
    def _scopes(self) -> tuple[Scope, ...]:
        scopes: tuple[Scope, ...] = getattr(self.screen, "scopes", ())
        return (*scopes, "app")

    def _actions(self) -> Iterator[Command]:
        for action in ACTIONS:
            if action.scope in self._scopes and action.in_palette and self._works(action.method):
                target = self.app if action.scope == "app" else self.screen
                yield self._title(action), partial(self._run, action.method, target), action.help

    def _elsewhere(self) -> Iterator[Command]:
        """Actions of the other screens: one goes there, as only there can be seen what it would act on."""
        for action in ACTIONS:
            if action.scope in MODE_OF and action.scope not in self._scopes and action.in_palette:
                mode = MODE_OF[action.scope]
                help_text = f"{action.help} This goes to {SCOPE_TITLES[mode]}; the key works there."
                yield self._title(action), partial(self.tgs.action_mode, mode), help_text

    def _title(self, action: Action) -> str:
        keys = self.tgs.config.keys.get(action.name, action.keys)
        return f"{SCOPE_TITLES[action.scope]}: {action.label}  [{show_key(keys.split(',')[0])}]"

    def _works(self, method: str) -> bool:
        return self.screen.check_action(method.partition("(")[0], ()) is not False

    async def _run(self, method: str, target: Any) -> None:
        await self.app.run_action(method, target)

    def _presets(self) -> Iterator[Command]:
        for name in presets.list_presets():
            yield f"Preset: {name}", partial(self.tgs.edit_preset, name), "Open it in the form."

    def _tunes(self) -> Iterator[Command]:
        for name in state.names(self.tgs.runs_root):
            yield (
                f"Tune: {name}",
                partial(self.tgs.open_tune, name),
                "Open it: how it stands, or how it ended.",
            )

    def _runs(self) -> Iterator[Command]:
        for run in run_dir.list_runs(self.tgs.runs_root)[:MAX_RUNS]:
            yield f"Run: {run.run_id}", partial(self.tgs.open_run, run), "Open it."
