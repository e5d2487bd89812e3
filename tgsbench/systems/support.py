"""What other systems cannot do of what a preset asks; known before anything is launched."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.preset import Preset


class Unsupported(NamedTuple):
    """One thing a system cannot do, and what would avoid it."""

    what: str
    remedy: str


def check(preset: Preset) -> None:
    """Raise TgsError (unsupported) when the preset's external engine cannot do what it asks."""
    found = gaps(preset)
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
    """Everything of the preset that its external engine has no counterpart for; none for our own engines."""
    system = _SYSTEMS.get(preset.engine.name)
    return [*_common(preset), *system(preset)] if system else []


def _common(preset: Preset) -> list[Unsupported]:
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
        found.append(Unsupported(f"tgsbench starts it on one machine only, not on {nodes}", remedy))
    return found


def _llamafactory(preset: Preset) -> list[Unsupported]:
    found = []
    if preset.workload.corpus == "lengths":
        found.append(Unsupported("it tokenizes text, random tokens have none", "--set workload.corpus=pydoc"))
    if preset.parallel.sp > 1:
        found.append(Unsupported(f"no sequence parallelism (sp={preset.parallel.sp})", "--set parallel.sp=1"))
    if preset.hardware.device == "cpu" and preset.training.compute_dtype == "bfloat16":
        found.append(Unsupported("no bf16 training on a CPU", "--set training.compute_dtype=float32"))
    return found


def _xtuner(preset: Preset) -> list[Unsupported]:
    found = []
    if preset.hardware.device == "cpu":
        if not preset.engine.cpu_shim:
            found.append(Unsupported("no CPU training without a shim", "--set engine.cpu_shim=true"))
        if preset.training.compute_dtype == "bfloat16":
            found.append(Unsupported("no bf16 training on a CPU", "--set training.compute_dtype=float32"))
        if preset.workload.document_mask:
            found.append(
                Unsupported("no document mask without flash-attn", "--set workload.document_mask=false")
            )
    if preset.engine.liger:
        found.append(Unsupported("no Liger kernels", "--set engine.liger=false"))
    if preset.workload.document_mask and preset.training.micro_batch > 1:
        found.append(Unsupported("a document mask only with micro-batch 1", "--set training.micro_batch=1"))
    return found


_SYSTEMS: dict[str, Callable[[Preset], list[Unsupported]]] = {
    "llamafactory": _llamafactory,
    "xtuner": _xtuner,
}
