"""`tgsbench models`: the shapes that are known, what a step of each costs, and how one is added."""

from __future__ import annotations

import click

from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_before_subcommand
from tgsbench.cli.groups import ListGroup
from tgsbench.errors import TgsError
from tgsbench.models.spec import ModelSummary, summary
from tgsbench.presets import catalog, config_file
from tgsbench.presets.save import save_user_model


@click.group(cls=ListGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List model shapes; `show` looks at one or at a config.json, `add` keeps a config.json as a shape."""
    refuse_before_subcommand()
    if ctx.invoked_subcommand is not None:
        return
    rows = [found for name in catalog.files("presets", "models") if (found := _summary(name)) is not None]
    if as_json:
        output.json(rows)
        return
    output.line(_line("model", "family", "parameters", "active", "KV/token", "8k", "128k"))
    for row in rows:
        output.line(_row(row))
    output.line("KV/token in bf16; FLOPs of a training step per token at 8k and 128k, convention model")


@models.command(short_help="Print a shape, and where its values came from.")
@click.argument("model", shell_complete=complete.models)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(model: str, as_json: bool) -> None:
    """Print a shape (NAME, or the path of a config.json), and where each value came from."""
    if config_file.is_path(model):
        found = config_file.read_model(model)
        shape, origins, notes = found.shape, found.origins, found.notes
    else:
        shape, notes = catalog.load_model(model), []
        document, path = catalog.model_document(model)
        origins = dict.fromkeys(document, str(path))
    if as_json:
        costs = summary(model, shape)
        output.json({"shape": shape, "origins": origins, "notes": notes, "costs": costs})
        return
    for key, value in _flat(config_file.as_table(shape)):
        output.line(f"{key} = {value!r}".ljust(44) + f"  # {origins.get(key, 'default')}")
    for note in notes:
        output.line(f"# {note}")
    output.line(f"# {_row(summary(shape.name, shape))}")


@models.command()
@click.argument("path")
@click.option("--name", default="", help="What to call it (default: the folder's or the file's name).")
def add(path: str, name: str) -> None:
    """Write the shape of a config.json as a TOML file of your own."""
    found = config_file.read_model(path)
    written = save_user_model(name or found.shape.name.lower().replace("-", "_"), found.shape)
    for note in found.notes:
        diagnostics.note(note)
    output.line(f"{written}: model = {written.stem!r} and --model {written.stem} name it now")


def _summary(name: str) -> ModelSummary | None:
    """None, and a warning, for a file that cannot be read: it must not hide the others."""
    try:
        return summary(name, catalog.load_model(name))
    except TgsError as error:
        diagnostics.warn(f"{error.msg}; passed over")
        return None


def _row(row: ModelSummary) -> str:
    costs = [f"{flops / 1e9:,.1f} G" for flops in row.flops_per_token.values()]
    cached = f"{row.kv_bytes_per_token / 1024:,.1f} KiB"
    sizes = _billions(row.parameters), _billions(row.active_parameters)
    text = _line(row.key, row.family, *sizes, cached, *costs)
    return f"{text}  counted and planned, not trained" if row.untrained else text


def _line(key: str, family: str, total: str, active: str, cached: str, short: str, long: str) -> str:
    return f"{key:<20} {family:<12} {total:>11} {active:>9} {cached:>12} {short:>11} {long:>11}"


def _billions(number: int) -> str:
    return f"{number / 1e9:,.2f} B" if number >= 1e8 else f"{number / 1e6:,.1f} M"


def _flat(table: dict[str, object], at: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in table.items():
        rows += _flat(value, f"{at}{key}.") if isinstance(value, dict) else [(f"{at}{key}", value)]
    return rows
