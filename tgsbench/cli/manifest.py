"""`tgsbench manifest`: print what starts a preset on Kubernetes or through SkyPilot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from tgsbench import presets
from tgsbench.cli import complete, output
from tgsbench.cli.options import own_options, wishes
from tgsbench.launch import nodes, schedulers
from tgsbench.launch.manifests import ManifestOptions
from tgsbench.store import run_dir


def _with_options(call: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(own_options(ManifestOptions)):
        call = option(call)
    return call


@click.command()
@click.argument("preset", shell_complete=complete.presets)
@click.option(
    "--for",
    "kind",
    required=True,
    type=click.Choice(sorted(schedulers.MANIFESTS)),
    help="What is to run it.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@_with_options
def manifest(preset: str, kind: str, sets: tuple[str, ...], **given: Any) -> None:
    """Print the manifest that starts PRESET: to submit with the cluster's own tools.

    \b
    tgsbench manifest llama2_70b_1M --for trainjob \\
        --image ghcr.io/me/tgsbench:0.2 --claim runs > job.yaml
    kubectl create -f job.yaml

    Each node runs `tgsbench run --nodes auto`; results land in the shared runs folder.
    """
    resolved = presets.resolve(presets.named(preset), sets).preset
    chosen = nodes.preset_options(preset, sets, rehearse=False)
    renderer = schedulers.renderer(kind)
    root = run_dir.runs_root(None)
    output.line(renderer.render(resolved, chosen, wishes(ManifestOptions, given), root).rstrip())
