"""What a shell offers for the word under the cursor: names of presets, runs, models, GPUs, engines.

Only names of files are listed: nothing is parsed, and what cannot be read is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import click

from tgsbench.errors import TgsError

if TYPE_CHECKING:  # every command has this module, and few starts complete a word
    from click.shell_completion import CompletionItem

Complete: TypeAlias = "Callable[[click.Context, click.Parameter, str], list[CompletionItem]]"


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets, and files where a path is begun."""
    if "/" in incomplete or incomplete.endswith(".toml"):
        return [_item(incomplete, type="file")]
    return _offered(_preset_names, incomplete)


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Stored runs, newest first by name, and `latest`."""
    return _offered(lambda: _run_names(ctx), incomplete)


def rows(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What can be compared: runs and presets."""
    return _offered(lambda: [*_run_names(ctx), *_preset_names()], incomplete)


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files of presets/models."""
    return _offered(lambda: _data_names("models"), incomplete)


def gpus(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files of presets/hardware."""
    return _offered(lambda: _data_names("hardware"), incomplete)


def links(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files of presets/links."""
    return _offered(lambda: _data_names("links"), incomplete)


def options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of a preset."""
    return _offered(_option_keys, incomplete)


def engines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Every engine."""
    return _offered(_engine_names, incomplete)


def columns(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Columns of the list of runs."""
    return _offered(_column_names, incomplete)


def _offered(names: Callable[[], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    try:
        return [_item(name) for name in names() if name.startswith(incomplete)]
    except (TgsError, OSError):
        return []


def _item(value: str, type: str = "plain") -> CompletionItem:
    from click.shell_completion import CompletionItem

    return CompletionItem(value, type=type)


# Imported when they are asked for: every command has this module.


def _preset_names() -> list[str]:
    from tgsbench.presets import catalog

    return catalog.list_presets()


def _data_names(kind: str) -> list[str]:
    from tgsbench.presets import catalog

    return sorted(catalog.files("presets", kind))


def _run_names(ctx: click.Context) -> list[str]:
    from tgsbench.store import run_dir

    folder = ctx.params.get("folder") or ctx.params.get("output") or ctx.obj
    names = run_dir.Store(run_dir.runs_root(folder)).names
    return [*sorted(names, reverse=True), "latest"] if names else []


def _engine_names() -> list[str]:
    from tgsbench.systems import registry

    return registry.names()


def _option_keys() -> Iterable[str]:
    from tgsbench.presets.options import all_options

    return all_options()


def _column_names() -> Iterable[str]:
    from tgsbench.results.run_columns import COLUMNS

    return COLUMNS
