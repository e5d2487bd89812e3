"""Checks that what a run's files state twice agrees: a folder that was cut off or edited is noticed."""

from __future__ import annotations

from collections.abc import Iterator

from tgsbench.metrics.observe import RunTotals
from tgsbench.metrics.physical import SIMULATED
from tgsbench.schema.events import EVENTS_LOST
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Integrity, Manifest


def check_files(
    manifest: Manifest, preset: Preset, preset_digest: str, observed: RunTotals, into: Integrity
) -> None:
    """Add what does not agree to a run's integrity; `preset_digest` is of the preset that lies in its folder.

    For a run of our own ranks that says of itself that it ended well.
    """
    if any(hello.device == SIMULATED for hello in observed.hellos.values()):
        return
    problems = [
        *_steps(manifest, preset, observed),
        *_preset(preset_digest, observed),
        *_ranks(manifest, observed),
    ]
    into.files_ok = not problems
    into.problems += problems


def differing_versions(observed: RunTotals) -> list[str]:
    """Packages whose version is not the same on all ranks, each with a sentence."""
    hellos = observed.hellos
    first = hellos[min(hellos)].versions if hellos else {}
    found = {
        name: f"rank {rank} ran {name} {version}, others {first.get(name, 'none')}"
        for rank, hello in sorted(hellos.items(), reverse=True)
        for name, version in hello.versions.items()
        if version != first.get(name)
    }
    return [found[name] for name in sorted(found)]


def _steps(manifest: Manifest, preset: Preset, observed: RunTotals) -> Iterator[str]:
    """Steps that are missing; a rank that said itself that it could not write some has told of them."""
    if any(warning.code == EVENTS_LOST for warning in observed.warnings):
        return
    told, wanted = len(observed.complete("measure", manifest.world_size)), preset.measure.steps
    if told < wanted:
        yield f"steps: {told} of the {wanted} measured steps are in the event files of all ranks"


def _preset(digest: str, observed: RunTotals) -> Iterator[str]:
    read = {hello.preset_digest for hello in observed.hellos.values() if hello.preset_digest}
    if digest and read - {digest}:
        yield "preset: the preset.toml of this folder is not the one that the ranks read"


def _ranks(manifest: Manifest, observed: RunTotals) -> Iterator[str]:
    hellos = observed.hellos
    worlds = {hello.world for hello in hellos.values()} - {manifest.world_size}
    if worlds:
        yield f"ranks: they were {min(worlds):,} where run.json says {manifest.world_size:,}"
    devices = sorted({hello.device for hello in hellos.values()})
    if len(devices) > 1:
        yield f"ranks: they ran on {len(devices)} kinds of device: {', '.join(devices[:4])}"
