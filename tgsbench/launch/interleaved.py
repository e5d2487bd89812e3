"""Engines run in turns on one preset, the order rotated, until their ratio is known well enough."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.external import config_lines
from tgsbench.launch import local, preflight
from tgsbench.launch.narration import Narrator
from tgsbench.launch.rehearse import rehearsal_on
from tgsbench.metrics import ratio
from tgsbench.metrics.spread import oddities
from tgsbench.results import rows
from tgsbench.results.compare import Comparison, compare_pairs
from tgsbench.results.repeats import scaled
from tgsbench.results.rows import Row
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result
from tgsbench.store import run_dir
from tgsbench.systems import registry, support

MIN_ROUNDS = 3
"""Below it Student's t gives an interval that says nothing (two pairs: 12.7 standard errors)."""
MAX_ROUNDS = 30

Say = Callable[[str], None]


class Limits(Struct, frozen=True, kw_only=True):
    """When the runs end: interval narrow enough, seconds spent, or rounds done."""

    within: float = 0.02
    """Half width of every ratio's interval, as a share of the ratio."""
    budget_s: float = 900.0
    rounds: int | None = None
    """Exactly so many, as far as the budget goes, whatever the intervals are."""


class EngineRuns(Struct, kw_only=True):
    """One engine and its runs so far."""

    engine: str
    preset: Preset | None = None
    """None when it cannot run this preset here."""
    results: list[Result] = []
    reason: str = ""
    """Why it does not run, or no longer does."""

    @property
    def runs_on(self) -> bool:
        """Does it take part in the next round?"""
        return self.preset is not None and not self.reason

    @property
    def medians(self) -> list[float]:
        """TGS of each run."""
        return [r.tgs.median for r in self.results if r.status == "ok" and r.tgs.median is not None]


def contenders(
    name: str, assignments: Sequence[str], engines: Sequence[str], rehearse: bool
) -> list[EngineRuns]:
    """Each engine's preset, or why it cannot run it; nothing is started."""
    return [
        _contender(name, registry.assignments_for(engine, engines, assignments), engine, rehearse)
        for engine in engines
    ]


def order(engines: Sequence[EngineRuns], index: int) -> list[EngineRuns]:
    """Round `index`: shuffled, and every second round is the one before it backwards.

    So no engine always follows the same one, and over two rounds each was as early as any other.
    """
    live = [engine for engine in engines if engine.runs_on]
    random.Random(index // 2).shuffle(live)
    return live[::-1] if index % 2 else live


def run_interleaved(
    engines: list[EngineRuns],
    root: Path,
    limits: Limits,
    say: Say,
    tag: str,
    run: Callable[..., Result] | None = None,
) -> str:
    """Run round after round; returns why it ended. An engine whose run fails leaves, its result stays.

    No round starts that cannot end within the budget, and in the first one no engine. `run` (a test's) takes
    a preset, the folder of runs, a tag and `say`.
    """
    budget = _Budget(limits.budget_s)
    for index in range(limits.rounds or MAX_ROUNDS):
        if index and not budget.fits(engines):
            done = units.counted(index, "round")
            return f"another round does not fit into the budget of {limits.budget_s:.0f} s after {done}"
        for engine in order(engines, index):
            assert engine.preset is not None
            if not budget.fits([engine]) and engine.results:
                return f"another run does not fit into the budget of {limits.budget_s:.0f} s"
            if not budget.fits([engine]):
                engine.reason = f"not started: it would not end within the budget of {limits.budget_s:.0f} s"
                say(f"round {index + 1}  {engine.engine:<12} {engine.reason}")
                continue
            say(f"round {index + 1}  {engine.engine:<12} starts, {budget.told}")
            begin_s = time.monotonic()
            result = (run or run_once)(engine.preset, root, tag, _prefixed(say, engine.engine))
            budget.took(engine, time.monotonic() - begin_s)
            engine.results.append(result)
            _judge(engine, result)
            say(_told(index, engine, result))
        if sum(engine.runs_on for engine in engines) < 2:
            return "fewer than two engines are left"
        if not limits.rounds and index + 1 >= MIN_ROUNDS and _narrow(engines, limits.within):
            return f"every interval is within {limits.within:.1%} after {index + 1} rounds"
    return f"{limits.rounds or MAX_ROUNDS} rounds were run"


class _Budget:
    """Seconds that may be spent, and what runs will take: as an engine's longest, else as the longest."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s, self._begin_s = budget_s, time.monotonic()
        self._took_s: dict[str, float] = {}

    def took(self, engine: EngineRuns, seconds: float) -> None:
        """One run is over."""
        self._took_s[engine.engine] = max(seconds, self._took_s.get(engine.engine, 0.0))

    def fits(self, engines: Sequence[EngineRuns]) -> bool:
        """Can one more run of each end in time? The very first run is always tried."""
        if not self._took_s:
            return True
        longest_s = max(self._took_s.values())
        needed_s = sum(self._took_s.get(e.engine, longest_s) for e in engines if e.runs_on)
        return self._spent_s + needed_s <= self._budget_s

    @property
    def told(self) -> str:
        """How much is spent."""
        return f"{self._spent_s:.0f} s of {self._budget_s:.0f} s spent"

    @property
    def _spent_s(self) -> float:
        return time.monotonic() - self._begin_s


def _prefixed(say: Say, name: str) -> Say:
    return lambda text: say(f"         {name:<12} {text}")


def run_once(preset: Preset, root: Path, tag: str, say: Say) -> Result:
    """Do one run and store it; `say` gets a line of progress after each silent while."""
    run = run_dir.create(root, preset)
    manifest = local.prepare_run(run, preset)
    manifest.tags = [tag]
    run.write("run.json", manifest)
    return local.supervise(run, Narrator(preset, say).hear)


def as_row(contender: EngineRuns) -> Row:
    """The engine's runs as one row; its samples are the medians of its runs."""
    medians = contender.medians
    if not contender.results:
        return Row(
            label=contender.engine,
            kind="run",
            system=contender.engine,
            status="unsupported" if contender.preset is None else "not run",
            reason=contender.reason,
        )
    best = next((r for r in reversed(contender.results) if r.status == "ok"), contender.results[-1])
    row = msgspec.structs.replace(rows.from_result(best, label=contender.engine), **_told_of(contender))
    if not medians:
        return row
    mean, ci95 = ratio.mean_of_runs(medians)
    return msgspec.structs.replace(
        row,
        tgs=mean,
        # One run alone has no spread between runs; that of its steps is said to be one.
        ci95=ci95 or row.ci95,
        samples=medians,
        repeats=len(medians),
        tflops=scaled(best, mean),
        disturbances=[r.disturbances[-1] for r in contender.results if r.disturbances],
        remarks=oddities([1 / tgs for tgs in medians], "run"),
    )


def _told_of(contender: EngineRuns) -> dict[str, Any]:
    """What stands beside the speed: start-up, lines of configuration, own figure, own ways."""
    assert contender.preset is not None
    starts = [r.start_up_s for r in contender.results if r.start_up_s]
    own = [r.claimed_tgs for r in contender.results if r.status == "ok" and r.claimed_tgs]
    return {
        "start_up_s": sum(starts) / len(starts) if starts else None,
        "own_tgs": sum(own) / len(own) if own else None,
        "config_lines": config_lines.count(contender.preset),
        "unequal": list(registry.engine_of(contender.preset.engine).unequal),
        "reason": contender.reason,
    }


def comparison(a: EngineRuns, b: EngineRuns, force: bool) -> Comparison:
    """Engine `a` against the base `b`, round by round."""
    return compare_pairs(as_row(a), as_row(b), list(zip(a.medians, b.medians, strict=False)), force=force)


def _contender(name: str, assignments: Sequence[str], engine: str, rehearse: bool) -> EngineRuns:
    preset = presets.resolve(name, [*assignments, f"engine.name={engine}"]).preset
    machine = preflight.this_machine()
    try:
        preset = rehearsal_on(preset, machine) if rehearse else preset
        support.check(preset)
        preflight.check(preset, machine, preset.world_size)
    except TgsError as error:
        return EngineRuns(
            engine=engine, reason=f"{error.msg} (try: {error.hint})" if error.hint else error.msg
        )
    return EngineRuns(engine=engine, preset=preset)


def _judge(engine: EngineRuns, result: Result) -> None:
    if result.status != "ok" or not result.tgs.median:
        engine.reason = why_not_ok(result)


def why_not_ok(result: Result) -> str:
    """Status of a run that gives no figure, and what failed or which checks it broke."""
    why = result.failure.reason if result.failure else "; ".join(result.integrity.problems)
    return f"{result.status}: {why}"


def _told(index: int, engine: EngineRuns, result: Result) -> str:
    figure = (
        f"TGS {result.tgs.median:,.1f}"
        if result.tgs.median is not None and not engine.reason
        else engine.reason
    )
    return f"round {index + 1}  {engine.engine:<12} {figure}  {result.run_id}"


def _narrow(engines: Sequence[EngineRuns], within: float) -> bool:
    base, *others = [engine.medians for engine in engines if engine.runs_on]
    return all(half_width(ratio.of_pairs(list(zip(own, base, strict=False)))) <= within for own in others)


def half_width(found: ratio.Ratio) -> float:
    """Half of the interval over the ratio; infinite without an interval."""
    return (found.ci95[1] - found.ci95[0]) / 2 / found.value if found.ci95 else float("inf")
