"""Refuses command-line options that would have no effect beside the others given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click
from click.core import ParameterSource

from tgsbench.errors import TgsError


def refuse_idle(needs: Mapping[str, str]) -> None:
    """Raise TgsError for an option of this command that was given without the one that makes it count.

    `needs`: parameter -> the parameter that it is for, both as the command's function calls them.
    """
    ctx = click.get_current_context()
    for name, needed in needs.items():
        if _is_given(ctx, name) and not ctx.params.get(needed):
            option, other = _option(ctx, name), _option(ctx, needed)
            raise TgsError(f"{option} is for {other}", hint=f"add {other}, or leave {option} out")


def refuse_together(*pairs: tuple[str, str]) -> None:
    """Raise TgsError for two options of this command of which one would be passed over."""
    ctx = click.get_current_context()
    for name, other in pairs:
        if _is_given(ctx, name) and _is_given(ctx, other):
            first, second = _option(ctx, name), _option(ctx, other)
            raise TgsError(f"{first} has no effect with {second}: leave out one of them")


def refuse_before_subcommand(kept: Iterable[str] = ()) -> None:
    """Raise TgsError for an option of a group that its subcommand knows nothing of."""
    ctx = click.get_current_context()
    for name in ctx.params:
        if ctx.invoked_subcommand and name not in kept and _is_given(ctx, name):
            option = _option(ctx, name)
            raise TgsError(
                f"{option} before `{ctx.invoked_subcommand}` has no effect",
                hint=f"tgsbench {ctx.info_name} {ctx.invoked_subcommand} --help says what it takes",
            )


def _is_given(ctx: click.Context, name: str) -> bool:
    value = ctx.params.get(name)  # 0 is a value, an empty text or list is none
    is_value = value is not None and value is not False and value not in ("", ())
    return is_value and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _option(ctx: click.Context, name: str) -> str:
    """How the command line spells a parameter."""
    found = next(param for param in ctx.command.params if param.name == name)
    return max(found.opts, key=len) if isinstance(found, click.Option) else found.human_readable_name
