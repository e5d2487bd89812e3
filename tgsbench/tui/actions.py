"""Every action of the UI, once: keys, footer, help and palette are made from this table."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding, BindingType
from textual.keys import REPLACED_KEYS, Keys

from tgsbench.errors import nearest

Scope = Literal[
    "app", "presets", "form", "forecast", "live", "replay", "profile", "runs", "compare", "doctor", "list",
    "tuneform", "tune", "log", "chart", "modal",
]  # fmt: skip

SCOPE_TITLES: dict[Scope, str] = {
    "app": "Everywhere",
    "presets": "Presets",
    "form": "Edit a preset",
    "forecast": "Forecast",
    "tuneform": "Ask for a tune",
    "tune": "Tune",
    "live": "Live run",
    "replay": "Replay",
    "profile": "Profile",
    "runs": "Runs",
    "compare": "Compare",
    "doctor": "Doctor",
    "list": "In lists",
    "log": "In logs",
    "chart": "In charts",
    "modal": "In dialogs",
}
RESERVED_KEYS = frozenset({"ctrl+a", "ctrl+b"})
"""Prefixes of screen and tmux: no action may take them by default."""


@dataclass(frozen=True)
class Action:
    """One thing a user can do; its name is what [keys] in tui.toml calls it."""

    name: str
    """Scope and method, such as "live.stop": Textual runs action_stop of the screen."""
    keys: str
    """Default keys, comma-separated, in Textual's names."""
    label: str
    """One or two words for the footer: what the key means, the same wherever it works."""
    help: str
    """One sentence for help and palette."""
    in_footer: bool = False
    in_palette: bool = True
    goes_before: bool = False
    """Done before the next key is looked at: a line that is typed into gets every letter after its key."""

    @property
    def scope(self) -> Scope:
        """The part of the UI it belongs to."""
        scope = self.name.partition(".")[0]
        assert scope in SCOPE_TITLES
        return scope

    @property
    def method(self) -> str:
        """Textual's action string."""
        return self.name.partition(".")[2]


def _motion(name: str, keys: str, label: str, text: str = "", *, goes_before: bool = False) -> Action:
    return Action(name, keys, label, text or label, in_palette=False, goes_before=goes_before)


ACTIONS: tuple[Action, ...] = (
    Action("app.mode('presets')", "1", "Presets", "Show the presets."),
    Action("app.mode('runs')", "2", "Runs", "Show the history of runs."),
    Action("app.mode('live')", "3", "Live", "Show the run that is open."),
    Action("app.mode('profile')", "4", "Profile", "Show where the step's time goes."),
    Action("app.mode('doctor')", "5", "Doctor", "Check this machine."),
    Action(
        "app.explain",
        "question_mark",
        "Explain",
        "Explain the focused figure: formula, inputs, source.",
        True,
    ),
    Action("app.help", "f1", "Help", "List every key of this screen.", True),
    Action("app.command_palette", "ctrl+p,colon", "Find", "Find any action, preset or run.", True, False),
    Action("app.welcome", "f2", "Start here", "The three ways to begin."),
    Action("app.change_theme", "f3", "Theme", "Choose another theme."),
    Action("app.screenshot_svg", "f4", "Export SVG", "Save this screen as an SVG picture."),
    Action("app.quit", "q", "Quit", "Leave; a run that is going on goes on.", True),
    # Presets
    Action("presets.search", "slash", "Search", "Search presets as you type.", True, goes_before=True),
    Action("presets.launch", "r", "Run", "Run the chosen preset.", True),
    Action("presets.edit", "e", "Edit", "Edit the chosen preset in a form.", True),
    Action("presets.rehearse", "R", "Rehearse", "Run it shrunken to what this machine holds.", True),
    Action("presets.forecast", "f,f6", "Forecast", "Memory, TGS and faster settings, before it runs.", True),
    Action(
        "presets.tune", "U,f7", "Tune", "Find the fastest settings: plan every way, measure the best.", False
    ),
    Action("presets.copy_command", "y", "Copy", "Copy the command line that would run it."),
    # Form
    Action("form.launch", "ctrl+r", "Run", "Run the preset as edited.", True),
    Action("form.save", "ctrl+s", "Save", "Save as a preset of your own.", True),
    Action("form.forecast", "f6", "Forecast", "Memory, TGS and faster settings of what is edited.", True),
    Action("form.tune", "f7", "Tune", "Find the fastest settings of what is edited.", True),
    Action("form.cancel", "escape", "Back", "Leave the form; nothing is saved.", True),
    # Forecast
    Action("forecast.save", "ctrl+s", "Save", "Save the chosen setting as a preset of your own.", True),
    Action("forecast.copy", "y", "Copy", "Copy the command line that would run the chosen setting.", True),
    Action("forecast.cancel", "escape", "Back", "Back to where you were.", True),
    # Tune
    Action("tuneform.launch", "ctrl+r", "Run", "Start the tune, or go on with it.", True),
    Action("tuneform.cancel", "escape", "Back", "Leave the form; nothing is started.", True),
    Action("tune.stop", "s", "Stop", "Stop the tune; the best so far is kept.", True),
    Action("tune.save", "ctrl+s", "Save", "Save the chosen setting as a preset of your own.", True),
    Action("tune.copy", "y", "Copy", "Copy the command line that would run the chosen setting.", True),
    Action(
        "tune.pane('settings')", "Z", "Settings", "Every setting, the best first, and what each rests on."
    ),
    Action("tune.pane('trials')", "X", "Trials", "Every trial, the last first; enter opens its run."),
    Action("tune.pane('knobs')", "W", "Knobs", "What each knob of the best setting gives."),
    Action("tune.pane('front')", "M", "Front", "TGS against memory of what was tried."),
    Action("tune.pane('dropped')", "D", "Left out", "Why ways were left out."),
    Action("tune.next_pane", "right_square_bracket", "Next pane", "Go to the next table.", True),
    Action("tune.previous_pane", "left_square_bracket", "Previous pane", "Go to the pane before."),
    Action("tune.close", "escape", "Back", "Back to the presets; the tune goes on.", True),
    # Live
    Action("live.stop", "s", "Stop", "Stop the run; asks what to keep.", True),
    Action("live.pane('charts')", "c", "Charts", "TGS, step time, loss and memory over steps."),
    Action("live.pane('ranks')", "w", "Ranks", "Rank × step heatmap: who is slow."),
    Action("live.pane('gpus')", "u", "GPUs", "Utilisation, power, temperature by rank."),
    Action("live.pane('logs')", "o", "Logs", "Log of a rank."),
    Action("live.pane('notes')", "a", "Notes", "Warnings and errors."),
    Action("live.next_pane", "right_square_bracket", "Next pane", "Go to the next pane."),
    Action("live.previous_pane", "left_square_bracket", "Previous pane", "Go to the pane before."),
    Action("live.next_rank", "full_stop", "Next rank", "Look at the next rank, in charts and logs."),
    Action("live.previous_rank", "comma", "Previous rank", "Look at the rank before."),
    Action("live.convention", "t", "TFLOPs", "Count TFLOPs in the next convention."),
    Action("live.metric", "m", "Figure", "Show another figure in the heatmap."),
    Action("live.first_error", "E", "1st error", "Jump to the first error in the logs.", True),
    Action("live.profile", "p", "Profile", "Look at this run's profile."),
    Action("live.copy", "y", "Copy", "Copy the result as command, markdown row or JSON."),
    # Replay
    Action("replay.pause", "space", "Pause", "Pause or go on.", True),
    Action("replay.faster", "plus,equals_sign", "Fast", "Double the speed.", True),
    Action("replay.slower", "minus", "Slow", "Halve the speed.", True),
    Action("replay.next_step", "n", "Next", "Jump to the end of the next step."),
    Action("replay.skip", "L", "Skip 10 %", "Jump a tenth of the run ahead."),
    Action("replay.restart", "0", "Restart", "Play from the beginning."),
    # Profile
    Action("profile.tensorboard", "B", "TensorBoard", "Start TensorBoard on it; shows the address.", True),
    Action("profile.pane('shares')", "S", "Shares", "Shares of the step: compute, communication, idle."),
    Action("profile.pane('kernels')", "K", "Kernels", "The most expensive kernels and operators."),
    Action("profile.pane('collectives')", "C", "Collectives", "Each collective, exposed and hidden."),
    Action("profile.pane('findings')", "F", "Findings", "What stands out, and what to try."),
    Action("profile.next_pane", "right_square_bracket", "Next pane", "Go to the next table.", True),
    Action("profile.previous_pane", "left_square_bracket", "Previous pane", "Go to the table before."),
    Action("profile.next_rank", "full_stop", "Next rank", "Look at the next rank.", True),
    Action("profile.previous_rank", "comma", "Previous rank", "Look at the rank before."),
    Action("profile.copy", "y", "Copy", "Copy the analysis as JSON.", True),
    # Runs
    Action(
        "runs.search", "slash", "Search", "Show the runs that match, as you type.", True, goes_before=True
    ),
    Action("runs.mark", "x", "Mark", "Mark for comparing.", True),
    Action("runs.compare", "v", "Compare", "Compare the marked runs side by side.", True),
    Action("runs.details", "i", "Details", "Everything that is known of it, on one page.", True),
    Action("runs.sort", "O", "Order", "Sort by age, speed, preset or status in turn.", True),
    Action("runs.tag", "T", "Tag", "Add or remove tags."),
    Action("runs.delete", "d", "Delete", "Delete it; asks first."),
    Action("runs.replay", "P", "Replay", "Play the run again."),
    Action("runs.profile", "p", "Profile", "Look at its profile."),
    Action("runs.again", "r", "Run", "Edit and run its preset again."),
    Action("runs.copy", "y", "Copy", "Copy as command, markdown row or JSON."),
    Action("runs.reload", "f5", "Refresh", "Read the folder again."),
    # Compare
    Action("compare.copy_markdown", "y", "Copy", "Copy the comparison as a markdown table.", True),
    Action("compare.copy_json", "J", "JSON", "Copy the comparison as JSON.", True),
    Action("compare.only_differences", "H", "Differ", "Hide rows that are equal.", True),
    Action("compare.swap", "b", "Base", "Compare against the next one.", True),
    Action("compare.close", "escape", "Back", "Back to the runs.", True),
    # Doctor
    Action("doctor.again", "f5", "Refresh", "Check again.", True),
    Action("doctor.copy", "y", "Copy", "Copy the report.", True),
    # Motions
    _motion("list.cursor_down", "j", "Down"),
    _motion("list.cursor_up", "k", "Up"),
    _motion("list.cursor_left", "h", "Left"),
    _motion("list.cursor_right", "l", "Right"),
    _motion("list.scroll_top", "g", "First"),
    _motion("list.scroll_bottom", "G", "Last"),
    _motion("list.page_down", "ctrl+d", "Page down"),
    _motion("list.page_up", "ctrl+u", "Page up"),
    _motion("log.line_down", "j,down", "Down"),
    _motion("log.line_up", "k,up", "Up"),
    _motion("log.top", "g,home", "First"),
    _motion("log.bottom", "G,end", "Last", "To the last line, and follow it."),
    _motion("log.page_down", "ctrl+d,pagedown", "Page down"),
    _motion("log.page_up", "ctrl+u,pageup", "Page up"),
    _motion("log.left", "h,left", "Left"),
    _motion("log.right", "l,right", "Right", "Right, where lines are longer."),
    _motion("log.filter", "slash", "Search", "Show the lines that contain a text.", goes_before=True),
    _motion("log.next_match", "n", "Next", "Next error or match."),
    _motion("log.previous_match", "N", "Previous", "Error or match before."),
    _motion("chart.left", "h,left", "Left", "Step before."),
    _motion("chart.right", "l,right", "Right", "Next step."),
    _motion("chart.first", "g,home", "First", "First step."),
    _motion("chart.last", "G,end", "Last", "Newest step."),
    Action("modal.close", "escape", "Back", "Close the dialog.", True, False),
)


def bindings(*scopes: Scope) -> list[BindingType]:
    """Textual bindings of some scopes, in the order of the table."""
    found = [action for scope in scopes for action in ACTIONS if action.scope == scope]
    return [
        Binding(
            a.keys, a.method, a.label, show=a.in_footer, tooltip=a.help, id=a.name, priority=a.goes_before
        )
        for a in found
    ]


def app_bindings(*names: str) -> list[BindingType]:
    """Bindings of some of the app's own actions, for a dialog: keys of the app do not reach it otherwise."""
    found = [action for action in ACTIONS if action.name in names]
    return [Binding(a.keys, f"app.{a.method}", a.label, show=True, tooltip=a.help, id=a.name) for a in found]


def of_scope(scope: Scope) -> list[Action]:
    """The actions of one scope."""
    return [action for action in ACTIONS if action.scope == scope]


def check_keymap(keymap: dict[str, str]) -> list[str]:
    """Problems of a user's keymap: unknown actions and keys, two actions that would take the same key."""
    known = {action.name: action for action in ACTIONS}
    problems = [
        f"[keys] {name}: no such action; {nearest(name, known)}" for name in keymap if name not in known
    ]
    for name, keys in keymap.items():
        if not keys.strip():
            problems.append(f"[keys] {name}: no key given")
        elif unknown := [key.strip() for key in keys.split(",") if not _is_key(key.strip())]:
            close = nearest(unknown[0].lower(), _NAMED)
            problems.append(f"[keys] {name}: no key is called {unknown[0]!r}; {close}")
    for scope in SCOPE_TITLES:
        problems += _clashes(scope, keymap)
    return list(dict.fromkeys(problems))


_NAMED = [key.value for key in Keys if not key.value.startswith("<")]
_BESIDE: dict[Scope, tuple[Scope, ...]] = {
    "presets": ("app",), "live": ("app",), "replay": ("app", "live"), "profile": ("app",), "runs": ("app",),
    "compare": ("app",), "doctor": ("app",), "tune": ("app",),
}  # fmt: skip
"""Scopes that work at the same time; a focused list or log and a dialog get their keys before all others."""


def _is_key(key: str) -> bool:
    """Can a terminal send it: a character, a name, a unicode name, with modifiers before it?"""
    modifiers, _, base = ("", "", key) if len(key) == 1 else key.rpartition("+")
    if not set(filter(None, modifiers.split("+"))) <= {"ctrl", "shift", "alt", "super", "hyper", "meta"}:
        return False
    if len(base) == 1 or base in _NAMED:
        return not modifiers or base == base.lower()
    name = REPLACED_KEYS.get(base, base)
    return any(_is_character(name.replace("_", joint)) for joint in " -")


def _is_character(name: str) -> bool:
    try:
        return bool(unicodedata.lookup(name))
    except KeyError:
        return False


def _clashes(scope: Scope, keymap: dict[str, str]) -> list[str]:
    """Keys that two actions take which work at the same time."""
    taken: dict[str, str] = {}
    problems = []
    for action in (a for each in (*_BESIDE.get(scope, ()), scope) for a in of_scope(each)):
        for key in keymap.get(action.name, action.keys).split(","):
            other = taken.setdefault(_named(key.strip()), action.name)
            if other != action.name:
                problems.append(f"[keys] {key.strip()}: taken by both {other} and {action.name}")
    return problems


def _named(key: str) -> str:
    """A key by one name only: "/" is "slash"."""
    return next(iter(Binding.make_bindings([(key, "")]))).key if key else key
