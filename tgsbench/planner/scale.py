"""How TGS and memory change with the number of GPUs, at the preset's length."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import Estimate, estimate, speed_range
from tgsbench.presets.validate import valid_sp
from tgsbench.schema.forecast import TgsRange, Verdict
from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import System
from tgsbench.units import GIB


class ScalePoint(Struct, frozen=True, kw_only=True):
    """One number of GPUs."""

    num_gpus: int
    sp: int
    dp: int
    tgs: TgsRange | None
    efficiency: float | None
    """TGS over that of the first number of GPUs that fits."""
    total_gib: float
    verdict: Verdict
    network_share: float
    """Of the step: all-to-alls across nodes and parameter traffic that nothing hides."""


def scale(
    preset: Preset, system: System, machine: Machine, num_gpus: Sequence[int], *, free_sp: bool = False
) -> list[ScalePoint]:
    """Plan the preset on each number of GPUs; sp stays, or becomes the largest that the GPUs allow.

    With `free_sp` it is the fastest that fits each number, or the one that needs least memory. Raises
    TgsError for numbers that no sp divides.
    """
    points = [_estimate(preset, system, machine, n, free_sp) for n in num_gpus]
    first = next((n.tgs for _, n in points if n.verdict != "out of memory"), None)
    return [_point(changed, numbers, first) for changed, numbers in points]


def _estimate(
    preset: Preset, system: System, machine: Machine, num_gpus: int, free_sp: bool
) -> tuple[Preset, Estimate]:
    if num_gpus < 1:
        raise TgsError(f"--scale {num_gpus}: GPUs must be at least 1", exit_code=ExitCode.USAGE)
    changed = replace(preset, hardware=replace(preset.hardware, num_gpus=num_gpus))
    allowed = valid_sp(changed)
    if not free_sp or not system.sequence_parallel:
        allowed = [max((sp for sp in allowed if sp <= preset.parallel.sp), default=0)]
    if not any(allowed):
        ring = preset.parallel.ring
        raise TgsError(
            f"--scale {num_gpus}: no sp has a ring of {ring}",
            hint="leave parallel.ring=0, and it is chosen",
            exit_code=ExitCode.BAD_PRESET,
        )
    meshes = [replace(changed, parallel=replace(preset.parallel, sp=sp)) for sp in allowed]
    return min(((mesh, estimate(mesh, machine, system)) for mesh in meshes), key=_rank)


def _rank(point: tuple[Preset, Estimate]) -> tuple[bool, float]:
    """What fits before what does not; then by speed, or by memory where nothing fits."""
    numbers = point[1]
    if numbers.verdict == "out of memory" or numbers.tgs is None:
        return True, numbers.memory.peak.total
    return False, -numbers.tgs


_NETWORK_ITEMS = ("gather_exposed", "all_to_all_network", "ring_exposed", "experts_network")


def _point(preset: Preset, numbers: Estimate, first: float | None) -> ScalePoint:
    time = numbers.time
    network = 0.0 if time is None else sum(time.items.get(name, 0.0) for name in _NETWORK_ITEMS)
    fits = numbers.verdict != "out of memory"
    return ScalePoint(
        num_gpus=preset.world_size,
        sp=preset.parallel.sp,
        dp=preset.dp,
        tgs=speed_range(numbers)[0],
        efficiency=numbers.tgs / first if numbers.tgs and first and fits else None,
        total_gib=numbers.memory.peak.total / GIB,
        verdict=numbers.verdict,
        network_share=network / time.step_s if time else 0.0,
    )
