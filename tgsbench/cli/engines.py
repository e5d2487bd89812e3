"""`tgsbench engines`: which engines can run here, and what installs the others."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_before_subcommand, refuse_together
from tgsbench.cli.groups import ListGroup
from tgsbench.errors import TgsError
from tgsbench.systems import availability, environments
from tgsbench.systems.availability import EngineState
from tgsbench.systems.environments import SharedTorch
from tgsbench.virtual_gpu import installation, settings


@click.group(cls=ListGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def engines(ctx: click.Context, as_json: bool) -> None:
    """List the engines: can each run here, what is missing, what installs it."""
    refuse_before_subcommand()
    if ctx.invoked_subcommand is not None:
        return
    found = availability.states()
    if as_json:
        output.json(found)
        return
    for state in found:
        for line in _lines(state):
            output.line(line)


@engines.command(short_help="Make an environment with another system.")
@click.argument("system", shell_complete=complete.engines, metavar="ENGINE")
@click.option(
    "--python", type=click.Path(path_type=Path), help="Keep this interpreter instead of making one."
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Checkout or wheel of a system that is on no package index.",
)
@click.option(
    "--virtual-gpu",
    "on_virtual_gpu",
    is_flag=True,
    help="For `run --virtual-gpu`: over the CUDA build of torch that `make virtual-gpu` installed.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done.")
def setup(system: str, python: Path | None, source: Path | None, on_virtual_gpu: bool, dry_run: bool) -> None:
    """Make an environment with another system, or keep the one that --python names."""
    refuse_together(("python", "on_virtual_gpu"))
    torch = _shared_torch(system) if on_virtual_gpu else None
    environments.find_recipe(system)
    if python is None:
        environments.check_source(system, source)
    elif source is not None:
        raise TgsError("--source installs into a new environment, --python names one that is there")
    if python is not None and not dry_run:
        environments.name_python(system, python)
    elif python is None and dry_run:
        folder = environments.environment_dir(system, on_virtual_gpu)
        output.line(f"{torch.python if torch else 'python'} -m venv {shlex.quote(str(folder))}")
        for argv in environments.install_argv(system, source, torch):
            output.line(shlex.join(argv))
        return
    elif python is None:
        environments.create(system, diagnostics.note, source, torch)
    if on_virtual_gpu:
        output.line(f"{system} can run on a virtual GPU: {installation.require_of(system).python}")
        return
    for line in _lines(availability.state(system)):
        output.line(line)


def _shared_torch(system: str) -> SharedTorch:
    """The CUDA build of torch that a system's environment for the virtual GPU is made over.

    Raises TgsError where there is none, or the system cannot run there.
    """
    settings.refuse_absent(system)
    found = installation.require()
    return SharedTorch(python=found.python, version=found.torch, site_packages=found.site_packages)


def _lines(state: EngineState) -> list[str]:
    verdict = f"can run here ({', '.join(state.devices)})" if state.available else "cannot run here"
    lines = [f"{state.name:<15} {verdict}: {state.what}"]
    details = [", ".join(f"{name} {version}" for name, version in state.versions.items())]
    details += [f"missing: {what}" for what in state.missing]
    details += [f"install: {state.install}" if state.install else ""]
    details += [f"limit: {limit}" for limit in state.limits]
    return lines + [f"{'':<15}   {detail}" for detail in details if detail]
