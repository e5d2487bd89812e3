"""What other systems cannot do of what a preset asks; known before anything is launched."""

from __future__ import annotations

from typing import NamedTuple

from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.systems.spec import EngineSpec, External


class Unsupported(NamedTuple):
    """One thing a system cannot do, and what would avoid it."""

    what: str
    remedy: str
    is_of_machines: bool = False
    """Is it about how many machines there are?"""


def check(preset: Preset, on_virtual_gpu: bool = False) -> None:
    """Raise TgsError (unsupported) when the preset's external engine cannot do what it asks.

    On a virtual GPU one rank runs, of however many machines.
    """
    found = [gap for gap in gaps(preset) if not (on_virtual_gpu and gap.is_of_machines)]
    if found:
        raise TgsError(
            f"engine {preset.engine.name} cannot run {preset.name}: {'; '.join(gap.what for gap in found)}",
            hint=" ".join(gap.remedy for gap in found),
            exit_code=ExitCode.UNSUPPORTED,
        )


def refuse_option(preset: Preset, option: str) -> None:
    """Raise TgsError (unsupported) for an option that only our own ranks understand."""
    raise TgsError(
        f"engine {preset.engine.name} runs on one machine as it is: {option} is not for it",
        hint=f"leave {option} out",
        exit_code=ExitCode.UNSUPPORTED,
    )


def gaps(preset: Preset) -> list[Unsupported]:
    """Everything of the preset that its engine cannot do in the release that tgsbench was tested with."""
    spec = registry.engine_of(preset.engine)
    return [*_family(spec, preset), *(_common(preset) if preset.is_external else []), *_own(spec, preset)]


def _family(spec: EngineSpec, preset: Preset) -> list[Unsupported]:
    """A family that no rank can train, or that this engine was not proved on."""
    family = find_family(preset.model.family)
    if family.untrained:
        remedy = f"tgsbench plan --preset {preset.name}, with --set model=… for --model, counts and plans it"
        return [Unsupported(f"{preset.model.name} is not trained: {family.untrained}", remedy)]
    if preset.model.mtp_layers:
        why = f"MTP modules are counted and planned, not trained (model.mtp_layers={preset.model.mtp_layers})"
        return [Unsupported(why, "--set model.mtp_layers=0")]
    if spec.families and preset.model.family not in spec.families:
        what = f"{family.name} models are not trained by it here, only {', '.join(spec.families)}"
        able = next((other.name for other in registry.engines() if not other.families), "")
        return [Unsupported(what, f"--engine {able}")]
    return []


def _own(spec: EngineSpec, preset: Preset) -> list[Unsupported]:
    tested = spec.launch.recipe.version if isinstance(spec.launch, External) else ""
    asked = [limit for limit in spec.limits if limit.asked and limit.asked(preset) and limit.holds(tested)]
    return [Unsupported(limit.what.format(preset=preset), limit.remedy) for limit in asked]


def _common(preset: Preset) -> list[Unsupported]:
    """What no system in an environment of its own can."""
    found = []
    if preset.training.checkpointing == "selective":
        found.append(
            Unsupported(
                "no selective activation checkpointing", "--set training.checkpointing=full (or none)"
            )
        )
    if preset.profile:
        found.append(Unsupported("its ranks take no profiler traces of ours", "leave --profile out"))
    if preset.engine.compile:
        found.append(Unsupported("torch.compile is not passed on", "--set engine.compile=false"))
    if preset.engine.activation_offload or preset.engine.tiled_mlp:
        found.append(
            Unsupported(
                "no activation offload, no tiled MLP",
                "--set engine.activation_offload=false --set engine.tiled_mlp=false",
            )
        )
    if preset.world_size > preset.hardware.gpus_per_node:
        nodes = -(-preset.world_size // preset.hardware.gpus_per_node)
        remedy = f"--nproc {preset.hardware.gpus_per_node}"
        what = f"tgsbench starts it on one machine only, not on {nodes}"
        found.append(Unsupported(what, remedy, is_of_machines=True))
    return found
