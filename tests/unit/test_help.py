"""`--help` of every command: 80 columns, no sentence cut off, no option without a word."""

from __future__ import annotations

import re

import click
import pytest

from tgsbench.cli.main import COMMANDS, cli


def _tree() -> dict[str, click.Command]:
    """Every command and subcommand by its words."""
    top = click.Context(cli, info_name="tgsbench")
    found = {name: cli.get_command(top, name) for name in COMMANDS}
    for name, command in list(found.items()):
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": child for sub, child in command.commands.items()}
    return {name: command for name, command in found.items() if command is not None}


TREE = _tree()


def _help(name: str) -> str:
    ctx = click.Context(TREE[name], info_name=f"tgsbench {name}", terminal_width=80, max_content_width=80)
    return TREE[name].get_help(ctx)


@pytest.mark.parametrize("name", TREE)
def test_help_fits_80_columns_and_ends_its_sentences(name):
    text = _help(name)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\w\.\.\.$", text.partition("\n")[2], re.M)


@pytest.mark.parametrize("name", TREE)
def test_every_option_says_what_it_does(name):
    options = [param for param in TREE[name].params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
