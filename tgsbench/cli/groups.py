"""Command groups that list when they are called bare, and by `list` as well."""

from __future__ import annotations

import click


class ListGroup(click.Group):
    """`tgsbench runs list --status ok` is `tgsbench runs --status ok`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave out a first word `list`: what it names is what the bare group does."""
        return super().parse_args(ctx, args[1:] if args[:1] == ["list"] else args)
