"""`tgsbench verify`: proof that a preset trains what one rank trains, before a number is trusted."""

from __future__ import annotations

import sys

import click

from tgsbench import presets
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import verify as proving
from tgsbench.report.verify import table, verdict
from tgsbench.schema.preset import Preset


@click.command()
@click.option(
    "--preset",
    "name",
    shell_complete=complete.presets,
    required=True,
    help="Name of a preset, or path of a .toml file.",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="Engine of our ranks; several are verified one by one and compared (default: the preset's, "
    "compared with another one if that is installed).",
)
@click.option("--model", help="Model to verify instead: a name of `tgsbench models`, or a config.json.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")
def verify(
    name: str, engines: tuple[str, ...], model: str | None, sets: tuple[str, ...], as_json: bool
) -> None:
    """Prove on a shrunken model that a preset computes the right thing.

    Runs on CPU ranks, whatever the preset's GPUs. Exit code 16 when a check fails.
    """
    sets = (f"model={model}", *sets) if model else sets
    wanted = [_small(name, sets, engine) for engine in dict.fromkeys(engines)] or [_small(name, sets)]
    compared = None if engines else peer(name, sets, wanted[0])
    for preset in wanted:
        proving.require(preset)
    diagnostics.note(f"{wanted[0].rehearsal_of}, shrunken: {proving.describe(wanted[0])}")
    found = proving.verify(wanted, compared, diagnostics.note)
    if as_json:
        output.json(found)
    else:
        output.table(table(found))
        output.line(verdict(found))
    sys.exit(ExitCode.OK if found.passed else ExitCode.VERIFY_FAILED)


def peer(name: str, sets: tuple[str, ...], first: Preset) -> Preset | None:
    """The preset by the other engine, where that is installed and can do what the preset asks."""
    other = proving.peer_of(first)
    if not other:
        return None
    try:
        return _small(name, sets, other)
    except TgsError as error:
        diagnostics.warn(f"not compared with {other}, which cannot do this: {error.msg}")
        return None


def _small(name: str, sets: tuple[str, ...], engine: str = "") -> Preset:
    assignments = [*sets, f"engine.name={engine}"] if engine else list(sets)
    return proving.small_preset(presets.resolve(presets.named(name), assignments).preset)
