"""The longest sequence that trains, by bisection on real runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import sweep
from tgsbench.presets.validate import mesh_problems
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result

GRANULE = 1024
"""Lengths are multiples of it (and of sp)."""


class LongestRun(Struct, kw_only=True):
    """What bisection found."""

    seq_len: int | None = None
    """None: not even the shortest length trains."""
    too_long: int | None = None
    """The shortest length known not to train; None: the limit was reached."""
    best: Result | None = None
    num_runs: int = 0
    tried: dict[int, str] = {}
    """Length -> how its run ended."""


Attempt = Callable[[int], Result]
MayTry = Callable[[int], bool]
"""Would a run of this length end in time?"""


def find_longest(
    preset: Preset, root: Path, name: str, limit: int, say: sweep.Say, budget_s: float = math.inf
) -> LongestRun:
    """Search from the preset's own length, with one warm-up and one measured step a run.

    Runs that lie stored already are not made again; beyond the first, none is started that would not end
    within the budget. Raises TgsError when a run ends for another reason than memory.
    """
    clock = _Clock(budget_s, say)

    def attempt(length: int) -> Result:
        variant = with_length(preset, length)
        digest = sweep.digest_of(variant)
        found, run_name = sweep.stored(root, f"{name}-longest", digest)
        result = found or sweep.run_named(
            variant, root, run_name, f"longest:{name}", lambda text: say(f"    {text}")
        )
        say(f"  {units.length(length)}: {sweep.told(result)}")
        clock.took(length)
        return result

    return bisect(attempt, preset.workload.seq_len, limit, granule_of(preset), clock.may_try)


class _Clock:
    """What runs of a search took; a longer sequence takes at most the square of its length longer."""

    def __init__(self, budget_s: float, say: sweep.Say) -> None:
        self._say = say
        self._last_s = time.monotonic()
        self._ends_s = self._last_s + budget_s
        self._length, self._took_s = 0, 0.0

    def took(self, length: int) -> None:
        """A run of this length has just ended."""
        now_s = time.monotonic()
        self._length, self._took_s, self._last_s = length, now_s - self._last_s, now_s

    def may_try(self, length: int) -> bool:
        """Would a run of this length end within the budget?"""
        longer = max(1.0, length / self._length) if self._length else 1.0
        in_time = self._last_s + self._took_s * longer**2 <= self._ends_s
        if not in_time:
            self._say(f"  {units.length(length)}: would not end within the budget")
        return in_time


def granule_of(preset: Preset) -> int:
    """Smallest step between lengths: what sp, ring and chunks divide, at least 1,024 where the length is."""
    strips = preset.parallel.sp * preset.engine.sequence_chunks
    unit = math.lcm(strips, 2 * preset.ring if preset.ring > 1 else 1)
    base = min(GRANULE, preset.workload.seq_len)
    return -(-base // unit) * unit


def with_length(preset: Preset, length: int) -> Preset:
    """The preset at another length, one warm-up and one measured step.

    The model's largest position is raised where it is smaller: the search is for memory alone.
    Raises TgsError when the mesh does not divide that length.
    """
    shape = replace(preset.model, max_position_embeddings=max(preset.model.max_position_embeddings, length))
    variant = replace(
        preset,
        model=shape,
        workload=replace(preset.workload, seq_len=length),
        measure=replace(preset.measure, steps=1, warmup=1),
    )
    problems = mesh_problems(variant)
    if problems:
        raise TgsError(f"seq_len {length}: {problems[0]}", exit_code=ExitCode.BAD_PRESET)
    return variant


def bisect(
    attempt: Attempt, start: int, limit: int, granule: int, may_try: MayTry = lambda _: True
) -> LongestRun:
    """Double until a run ends out of memory, or halve until one does not, then halve the gap.

    It ends before a length that it may not try.
    """
    found, trains = LongestRun(), dict[int, bool]()
    while (at := next_length(trains, start, limit, granule)) is not None:
        if trains and not may_try(at):
            break
        trains[at] = _trains(attempt, at, found)
    return found


def next_length(trains: Mapping[int, bool], start: int, limit: int, granule: int) -> int | None:
    """What to try after these lengths, of which each trains or does not; None when the longest is known.

    Tokens, in multiples of `granule`; from `start`, to `limit`.
    """
    longest = max((length for length, does in trains.items() if does), default=0)
    too_long = min((length for length, does in trains.items() if not does), default=0)
    if not trains:
        at = max(granule, min(start, limit))
    elif not too_long:
        at = min(limit, 2 * longest)
    else:
        at = (longest + too_long) // 2
    at = at // granule * granule
    return None if at in trains or at < granule else at


def _trains(attempt: Attempt, length: int, found: LongestRun) -> bool:
    result = attempt(length)
    found.num_runs += 1
    found.tried[length] = result.status
    if result.status == "ok":
        found.seq_len, found.best = length, result
        return True
    if result.status != "oom":
        raise TgsError(
            f"the search ended at {units.length(length)}: {sweep.told(result)}",
            hint=f"its logs: {result.run_dir}/log",
            exit_code=ExitCode.CANCELLED if result.status == "cancelled" else ExitCode.CRASHED,
        )
    found.too_long = length
    return False
