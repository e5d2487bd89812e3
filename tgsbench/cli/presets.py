"""`tgsbench presets`: list, show, validate, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from tgsbench import presets as catalog
from tgsbench import units
from tgsbench.cli import complete, output
from tgsbench.cli.effect import refuse_before_subcommand
from tgsbench.cli.groups import ListGroup
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets.resolve import check
from tgsbench.schema.reference import LLAMA_FACTORY, XTUNER


@click.group(cls=ListGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--model", help="Only presets of models with this in their name.")
@click.pass_context
def presets(ctx: click.Context, as_json: bool, model: str | None) -> None:
    """List presets; `show NAME` and `validate FILE` look at one, `explain` and `schema` say what it says."""
    refuse_before_subcommand()
    if ctx.invoked_subcommand is not None:
        return
    rows = [row for row in map(_row, catalog.list_presets()) if model is None or _is_of(row, model)]
    if model is not None and not rows:
        models = {_row(name).get("model", "") for name in catalog.list_presets()}
        raise TgsError(
            f"no preset of a model called {model!r}; {nearest(model, models, n=9)}",
            exit_code=ExitCode.BAD_PRESET,
        )
    if as_json:
        output.json(rows)
        return
    output.line(_line("preset", "model", "GPUs", "length", "sp", "XTuner TGS", "LLaMA-Factory TGS"))
    for row in rows:
        output.line(row["error"] if "error" in row else _preset_line(row))


@presets.command()
@click.argument("name", shell_complete=complete.presets)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value first.")
@click.option("--origin", is_flag=True, help="Say where each value came from.")
def show(name: str, sets: tuple[str, ...], origin: bool) -> None:
    """Print a preset, fully resolved, as TOML."""
    resolved = catalog.resolve(name, sets)
    if not origin:
        output.line(catalog.to_toml(resolved.preset).rstrip())
        return
    for key, value in _flatten(msgspec.to_builtins(resolved.preset)):
        output.line(f"{key} = {value!r}".ljust(50) + f"  # {resolved.origins.get(key, 'default')}")


@presets.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def validate(file: Path) -> None:
    """Report every problem of a preset file at once."""
    problems = check(file)
    if problems:
        raise TgsError(
            "\n  ".join([f"{file}: {units.counted(len(problems), 'problem')}", *problems]),
            exit_code=ExitCode.BAD_PRESET,
        )
    output.line(f"{file}: ok")


@presets.command(short_help="Print the JSON schema of a preset file.")
def schema() -> None:
    """Print the JSON schema of a preset file, for editors that complete and check TOML."""
    from tgsbench.presets.json_schema import preset_schema

    output.json(preset_schema())


@presets.command(short_help="Say what a key of a preset does, and what each value costs.")
@click.argument("key", required=False, shell_complete=complete.options)
@click.argument("name", required=False, shell_complete=complete.presets)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value of NAME first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(key: str | None, name: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Say what KEY does, its values and what it needs; with the preset NAME what each costs there.

    Without KEY: every key in a line.
    """
    from tgsbench.planner.option_effects import effects
    from tgsbench.presets.options import all_options, option_of, value_in
    from tgsbench.report.option import effect_lines, option_line, option_lines

    if key is None:
        options = list(all_options().values())
        _print(list(map(option_line, options)), options, as_json)
        return
    option = option_of(key)
    lines = option_lines(option)
    if name is None:
        _print(lines, option, as_json)
        return
    source = catalog.named(name)
    found, now = effects(source, sets, option), value_in(catalog.resolve(source, sets).preset, option)
    lines += effect_lines(name, now, found)
    _print(lines, {"option": option, "now": now, "effects": found}, as_json)


def _print(lines: list[str], document: Any, as_json: bool) -> None:
    if as_json:
        output.json(document)
    else:
        output.line("\n".join(lines))


def _row(name: str) -> dict[str, Any]:
    try:
        preset = catalog.resolve(name).preset
    except TgsError as error:
        return {"name": name, "error": error.msg}
    references = catalog.load_references().get(name, [])
    return {
        "name": name,
        "description": preset.description,
        "model": preset.model.name,
        "num_gpus": preset.hardware.num_gpus,
        "gpu": preset.hardware.gpu,
        "device": preset.hardware.device,
        "seq_len": preset.workload.seq_len,
        "sp": preset.parallel.sp,
        "dp": preset.dp,
        "engine": preset.engine.name,
        "checkpointing": preset.training.checkpointing,
        "document_mask": preset.workload.document_mask,
        "references": [msgspec.to_builtins(row) for row in references],
        "path": str(catalog.preset_path(name)),
    }


def _is_of(row: dict[str, Any], model: str) -> bool:
    """Does a preset's model have this in its name? Dashes, dots and blanks make no difference."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text)).lower()

    return plain(model) in plain(row.get("model", ""))


def _preset_line(row: dict[str, Any]) -> str:
    published = {
        ref["system"]: units.as_published(ref["tgs"]) if ref["tgs"] else ref["status"]
        for ref in row["references"]
    }
    tgs = [published.get(system, "-") for system in (XTUNER, LLAMA_FACTORY)]
    return _line(row["name"], row["model"], row["num_gpus"], units.length(row["seq_len"]), row["sp"], *tgs)


def _line(name: Any, model: Any, gpus: Any, length: Any, sp: Any, xtuner: Any, llamafactory: Any) -> str:
    return f"{name:<18} {model:<19} {gpus:>4} {length:>7} {sp:>3} {xtuner:>11} {llamafactory:>18}"


def _flatten(document: dict[str, Any], at: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in document.items():
        rows += _flatten(value, f"{at}{key}.") if isinstance(value, dict) else [(f"{at}{key}", value)]
    return rows
