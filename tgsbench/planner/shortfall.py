"""A run that went out of memory: what was planned, by how much the plan missed, what should fit instead."""

from __future__ import annotations

from msgspec import Struct

from tgsbench.errors import TgsError
from tgsbench.planner.advice import PresetChange, assignments, changed_estimates, smallest
from tgsbench.planner.plan import Estimate, estimate, machine_of
from tgsbench.schema.preset import Preset
from tgsbench.units import GIB, gib

_LEAST_SHARE = 0.02
"""Saved at the least, of what was in use, where the failed request is not known: the allocator's share."""


class Shortfall(Struct, frozen=True, kw_only=True):
    """What the planner says after a rank ran out of memory."""

    forecast: str
    """Planned memory, memory at the failure, and the difference; empty where nothing is known."""
    remedy: str = ""
    """The smallest single change that should fit; empty where none does."""


def explain(preset: Preset, gpu: str, in_use: int, requested: int) -> Shortfall | None:
    """Hold a plan against an out-of-memory error.

    `in_use` and `requested` are bytes of the rank that failed, as its error says; `gpu` is a key of
    presets/hardware, empty on a CPU. Returns None for hardware or a system that nobody has described.
    """
    try:
        base = estimate(preset, machine_of(preset, gpu))
    except TgsError:
        return None
    planned, needed = base.memory.peak.total, in_use + requested
    if not needed:
        return Shortfall(forecast=f"planned {gib(planned)} a rank")
    limit = _limit(base.machine.gpu.memory_gib * GIB, in_use, requested)
    missed = max(0.0, needed - planned)
    known = changed_estimates(preset, base)
    fitting = [(c, e) for c, e in known if e.memory.peak.total + missed <= limit]
    remedy = _remedy(*smallest(fitting), missed) if fitting else ""
    return Shortfall(forecast=_forecast(planned, in_use, requested), remedy=remedy)


def _limit(card_bytes: float, in_use: int, requested: int) -> float:
    """What may be used: the card, or what was got where others or fragments held the rest of it."""
    needed = in_use + requested
    if card_bytes and needed > card_bytes:
        return card_bytes
    return needed - max(requested, _LEAST_SHARE * needed)


def _forecast(planned: float, in_use: int, requested: int) -> str:
    needed = in_use + requested
    asked = f" ({gib(in_use)} in use, {gib(requested)} asked for)" if in_use and requested else ""
    off = f"{gib(abs(needed - planned))} {'more' if needed > planned else 'less'} than planned"
    return f"planned {gib(planned)} a rank, ran out at {gib(needed)}{asked}: {off}"


def _remedy(change: PresetChange, numbers: Estimate, missed: float) -> str:
    sets = " ".join(f"--set {text}" for text in assignments(change))
    total = numbers.memory.peak.total
    too = f", {gib(total + missed)} with the same miss" if missed else ""
    return f"smallest change that should fit: {sets} ({change.what}; planned {gib(total)}{too})"
