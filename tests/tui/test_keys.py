"""A key means the same wherever it works, in every screen, dialog and widget of ours."""

import importlib
import pkgutil
from collections import defaultdict

import pytest
from textual.binding import Binding
from textual.dom import DOMNode
from textual.widgets import DataTable, Input, OptionList

import tgsbench.tui
from tgsbench.tui.actions import ACTIONS
from tgsbench.tui.screens.dialogs import Options
from tgsbench.tui.widgets.table import ListTable

MODULES = [m.name for m in pkgutil.walk_packages(tgsbench.tui.__path__, "tgsbench.tui.")]


def classes():
    """Every class of ours that binds keys of its own."""
    for name in MODULES:
        if name == "tgsbench.tui.serve":  # the server's, which binds none and needs an extra
            continue
        for found in vars(importlib.import_module(name)).values():
            is_ours = isinstance(found, type) and issubclass(found, DOMNode) and found.__module__ == name
            if is_ours and "BINDINGS" in vars(found):
                yield found


def meanings(found):
    """Key -> meaning -> where, over all BINDINGS."""
    keys = defaultdict(lambda: defaultdict(set))
    for cls in found:
        for binding in Binding.make_bindings(cls.BINDINGS):
            keys[binding.key][binding.description].add(cls.__name__)
    return keys


def test_every_key_has_one_meaning_over_all_screens():
    found = meanings(classes())
    assert len(found) > 40, "the bindings were found"
    assert {key: dict(said) for key, said in found.items() if len(said) > 1} == {}


def test_the_test_sees_two_meanings():
    class Other(DOMNode):
        BINDINGS = [Binding("r", "other", "Other")]  # noqa: RUF012

    assert len(meanings([*classes(), Other])["r"]) == 2


def test_every_meaning_is_said_in_words():
    assert all(action.label.strip() and action.help.strip() for action in ACTIONS)


@pytest.mark.parametrize(("ours", "theirs"), [(ListTable, DataTable), (Options, OptionList)])
def test_motions_do_not_take_a_key_that_the_widget_itself_uses(ours, theirs):
    own = {binding.key for binding in Binding.make_bindings(ours.BINDINGS)}
    assert not own & {binding.key for binding in Binding.make_bindings(theirs.BINDINGS)}


def test_keys_of_the_form_do_not_take_what_edits_a_line():
    form = {key for a in ACTIONS if a.scope == "form" for key in a.keys.split(",")}
    assert not form & {binding.key for binding in Binding.make_bindings(Input.BINDINGS)}
