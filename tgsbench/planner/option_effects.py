"""What each value of an option costs a preset, and which values are refused: planned, nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tgsbench.errors import TgsError
from tgsbench.planner.plan import forecast_preset
from tgsbench.presets.options import Option, values_to_try
from tgsbench.presets.resolve import resolve
from tgsbench.schema.forecast import Verdict


class OptionEffect(Struct, frozen=True, kw_only=True):
    """A preset with one value of an option."""

    value: str
    problem: str = ""
    """Why it cannot have it, with the nearest that it can."""
    tgs: float | None = None
    memory_gib: float | None = None
    host_gib: float = 0.0
    verdict: Verdict = "unknown"


def effects(name: str | Path, sets: Sequence[str], option: Option) -> list[OptionEffect]:
    """Plan a preset with every value that it could have there; TgsError when it has a problem anyway."""
    preset = resolve(name, sets).preset
    return [_effect(name, [*sets, f"{option.key}={value}"], value) for value in values_to_try(option, preset)]


def _effect(name: str | Path, sets: Sequence[str], value: str) -> OptionEffect:
    try:
        planned = forecast_preset(resolve(name, sets).preset)
    except TgsError as error:
        return OptionEffect(value=value, problem=error.msg.splitlines()[-1].strip())
    return OptionEffect(
        value=value,
        tgs=planned.tgs.estimate if planned.tgs else None,
        memory_gib=planned.memory.total_gib,
        host_gib=planned.memory.host_gib,
        verdict=planned.verdict,
    )
