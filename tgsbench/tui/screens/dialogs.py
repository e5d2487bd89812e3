"""Dialogs: choose one of a few, write a line, read an explanation, read the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tgsbench.tui.actions import ACTIONS, SCOPE_TITLES, Action, Scope, bindings
from tgsbench.tui.config import config_path

if TYPE_CHECKING:
    from tgsbench.live.explain import Explanation


class Options(OptionList):
    """A list with vim motions."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("list")

    def action_scroll_top(self) -> None:
        """To the first option."""
        self.action_first()

    def action_scroll_bottom(self) -> None:
        """To the last option."""
        self.action_last()


class Choice(ModalScreen[str]):
    """Asks to choose; dismisses with the key of the choice, "" for none."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("modal")

    def __init__(self, title: str, text: str, choices: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._text, self._choices = title, text, choices

    def compose(self) -> ComposeResult:
        """Title, text, choices."""
        with Vertical(classes="dialog"):
            yield Static(self._title, classes="dialog-title", markup=False)
            if self._text:
                yield Static(self._text, classes="dialog-text", markup=False)
            yield Options(*(Option(Text(label), id=key or "none") for key, label in self._choices))
            yield Static(_hint("enter choose"), classes="dialog-hint")

    @on(OptionList.OptionSelected)
    def _chosen(self, message: OptionList.OptionSelected) -> None:
        key = message.option_id or ""
        self.dismiss("" if key == "none" else key)

    def action_close(self) -> None:
        """Choose nothing."""
        self.dismiss("")


class Ask(ModalScreen[str | None]):
    """Asks for one line; dismisses with it, with None when there is nothing to change."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("modal")

    def __init__(self, title: str, text: str, value: str) -> None:
        super().__init__()
        self._title, self._text, self._value = title, text, value

    def compose(self) -> ComposeResult:
        """Title, text, line."""
        with Vertical(classes="dialog"):
            yield Static(self._title, classes="dialog-title", markup=False)
            yield Static(self._text, classes="dialog-text", markup=False)
            yield Input(self._value, compact=True, select_on_focus=False)
            yield Static(_hint("enter save"), classes="dialog-hint")

    @on(Input.Submitted)
    def _answered(self, message: Input.Submitted) -> None:
        self.dismiss(message.value)

    def action_close(self) -> None:
        """Change nothing."""
        self.dismiss(None)


class Reading(ModalScreen[None]):
    """Something to read; arrows scroll it."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("modal")

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Title and scrolling text."""
        with Vertical(classes="dialog reading"):
            yield Static(self._title, classes="dialog-title", markup=False)
            with Page():
                yield Static(self._text, markup=False)
            yield Static(_hint("j k scroll"), classes="dialog-hint")

    def on_mount(self) -> None:
        """Let the keys scroll at once."""
        self.query_one(Page).focus()

    def action_close(self) -> None:
        """Close."""
        self.dismiss(None)


class Page(VerticalScroll, can_focus=True):
    """A scrolling page with vim motions."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("list")

    def action_cursor_down(self) -> None:
        """One line down."""
        self.action_scroll_down()

    def action_cursor_up(self) -> None:
        """One line up."""
        self.action_scroll_up()

    def action_scroll_top(self) -> None:
        """To the first line."""
        self.action_scroll_home()

    def action_scroll_bottom(self) -> None:
        """To the last line."""
        self.action_scroll_end()


def _hint(keys: str) -> Text:
    """What the keys do; the mouse closes by a click on it."""
    return Text(f"{keys}   ").append("esc close", Style(meta={"@click": "screen.close"}))


def explanation(explained: Explanation) -> Reading:
    """The dialog for one figure."""
    return Reading(explained.title, _explained(explained))


def explanations(columns: dict[str, Explanation]) -> Reading:
    """The dialog for a table: what its columns say."""
    text = Text()
    for title, explained in columns.items():
        text.append(f"column {title}: {explained.title}\n", "bold").append(_explained(explained)).append("\n")
    return Reading("What the columns say", text)


def _explained(explained: Explanation) -> Text:
    text = Text(explained.meaning + "\n\n")
    text.append("formula  ", "bold").append(explained.formula + "\n")
    text.append("source   ", "bold").append(explained.source + "\n")
    if explained.inputs:
        width = max(len(name) for name, _ in explained.inputs) + 2
        text.append("\ninputs\n", "bold")
        for name, value in explained.inputs:
            text.append(f"  {name.ljust(width)}").append(f"{value}\n")
    return text


def key_help(scopes: Sequence[Scope], keymap: dict[str, str]) -> Reading:
    """Every key of some scopes, the user's own in place of the defaults, and where to change them."""
    text = Text()
    for scope in scopes:
        text.append(f"{SCOPE_TITLES[scope]}\n", "bold")
        for action in ACTIONS:
            if action.scope == scope:
                text.append(f"  {_keys(action, keymap):<18}").append(f"{action.help}\n")
        text.append("\n")
    text.append(f"Keys of your own go under [keys] in {config_path()}, by the action's name:\n")
    text.append('  "live.stop" = "ctrl+k"\n\nnames  ')
    text.append(", ".join(action.name for action in ACTIONS if action.scope in scopes))
    return Reading("Keys", text)


def _keys(action: Action, keymap: dict[str, str]) -> str:
    return " ".join(show_key(key) for key in keymap.get(action.name, action.keys).split(","))


_KEY_NAMES = {
    "question_mark": "?", "slash": "/", "full_stop": ".", "comma": ",", "colon": ":", "plus": "+",
    "minus": "-", "equals_sign": "=", "dollar_sign": "$", "left_square_bracket": "[",
    "right_square_bracket": "]", "escape": "esc",
}  # fmt: skip


def show_key(key: str) -> str:
    """A key as people write it."""
    return _KEY_NAMES.get(key.strip(), key.strip())
