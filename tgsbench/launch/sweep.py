"""A grid of presets: what the planner rules out is skipped, every other end is a stored result."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tgsbench import presets, units
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.launch import local, preflight
from tgsbench.launch.narration import Narrator
from tgsbench.launch.rehearse import rehearsal_on
from tgsbench.planner import forecast_preset
from tgsbench.results import results
from tgsbench.safe_files import read_toml
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result, VirtualGpu
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.system.environment import code_digest, software
from tgsbench.systems import registry

SHORT = {
    "sp": "parallel.sp",
    "seq_len": "workload.seq_len",
    "length": "workload.seq_len",
    "checkpointing": "training.checkpointing",
    "engine": "engine.name",
    "micro_batch": "training.micro_batch",
    "accumulation": "training.accumulation",
    "num_gpus": "hardware.num_gpus",
    "document_mask": "workload.document_mask",
}
"""Names that a spec may use for a preset's keys."""
MAX_POINTS = 10_000
"""All are planned before the first one runs, 4 ms each."""
_MAX_VALUE = 200
_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
_KEYS = ("name", "preset", "rehearse", "set", "grid")
_UNFINISHED = ("running", "cancelled", "preempted")
"""Statuses of a run that has to be made again; a launcher that was killed leaves failure kind `vanished`."""

Say = Callable[[str], None]
Run = Callable[[Preset, Path, str, str, Say], Result]


class Spec(Struct, frozen=True, kw_only=True):
    """SPEC.toml: a preset, fixed values, and the values that are crossed."""

    name: str
    preset: str
    rehearse: bool = False
    fixed: list[str] = []
    grid: dict[str, list[Any]] = {}


class Point(Struct, kw_only=True):
    """One cell of the grid."""

    values: dict[str, str]
    preset: Preset | None = None
    digest: str = ""
    forecast_tgs: float | None = None
    forecast_s: float | None = None
    """Forecast of the whole run."""
    skipped: str = ""
    """Why it is not run."""
    result: Result | None = None

    @property
    def label(self) -> str:
        """The values that make it this point."""
        return " ".join(f"{_short(key)}={value}" for key, value in self.values.items()) or "-"


def read_spec(path: Path) -> Spec:
    """Read SPEC.toml; TgsError names the key that is wrong."""
    document = read_toml(path)
    unknown = [key for key in document if key not in _KEYS]
    if unknown:
        raise _bad(path, f"{unknown[0]}: unknown key; {nearest(unknown[0], _KEYS)}")
    name, grid, fixed = document.get("name", path.stem), document.get("grid", {}), document.get("set", {})
    if not isinstance(name, str) or not _SAFE_NAME.match(name) or ".." in name:
        raise _bad(path, f"name {name!r} may hold letters, digits, '_', '.', '-' only")
    if not isinstance(document.get("preset"), str):
        raise _bad(path, 'preset: missing; preset = "tiny_cpu"')
    if not isinstance(grid, dict) or not isinstance(fixed, dict):
        raise _bad(path, "set and grid are tables")
    lists = {key: value for key, value in _flat(grid).items() if isinstance(value, list) and value}
    if len(lists) != len(_flat(grid)):
        raise _bad(path, "every value of grid is a list that is not empty: sp = [1, 2]")
    flat = [*_flat(fixed).items(), *((key, value) for key, values in lists.items() for value in values)]
    if long := next((key for key, value in flat if _is_long(value)), ""):
        raise _bad(path, f"{long[:_MAX_VALUE]}: a value of more than {_MAX_VALUE} characters")
    if (num_points := math.prod(map(len, lists.values()))) > MAX_POINTS:
        raise _bad(path, f"the grid has {_count(num_points)} points, at most {MAX_POINTS:,} are run")
    assignments = [f"{SHORT.get(key, key)}={_text(value)}" for key, value in _flat(fixed).items()]
    named = {SHORT.get(key, key): value for key, value in lists.items()}
    return Spec(
        name=name,
        preset=document["preset"],
        rehearse=bool(document.get("rehearse")),
        fixed=assignments,
        grid=named,
    )


def points(spec: Spec) -> list[Point]:
    """Every cell of the grid, planned: what cannot run says why, the rest comes fastest first.

    Raises TgsError where no cell makes a preset, as with a key that there is not.
    """
    machine = preflight.this_machine()
    cells = itertools.product(*spec.grid.values())
    found = [_point(spec, dict(zip(spec.grid, map(_text, cell), strict=True)), machine) for cell in cells]
    if all(point.preset is None for point in found):
        problem = f"no point makes a preset; {found[0].label}: {found[0].skipped}"
        raise TgsError(problem, exit_code=ExitCode.BAD_PRESET)
    seen: dict[str, Point] = {}
    for point in found:
        first = seen.setdefault(point.digest, point) if point.digest else point
        if first is not point:
            point.skipped = f"the same as {first.label}"
    return sorted(found, key=lambda p: (bool(p.skipped), -(p.forecast_tgs or 0.0)))


def run_points(spec: Spec, found: Sequence[Point], root: Path, say: Say, run: Run | None = None) -> bool:
    """Run what has no stored result yet; returns False when it was interrupted."""
    todo = [point for point in found if not point.skipped]
    clock = Clock(todo)
    for index, point in enumerate(todo, start=1):
        assert point.preset is not None
        point.result, name = stored(root, spec.name, point.digest)
        if point.result is not None:
            say(f"{index}/{len(todo)}  {point.label}: stored already, {point.result.status}")
            continue
        say(f"{index}/{len(todo)}  {point.label}{clock.left(todo[index - 1 :])}")
        begin_s = time.monotonic()
        inside: Say = lambda text: say(f"      {text}")  # noqa: E731
        point.result = (run or run_named)(point.preset, root, name, f"sweep:{spec.name}", inside)
        clock.took(point, time.monotonic() - begin_s)
        say(f"      {told(point.result)}")
        if point.result.status in _UNFINISHED:
            return False
    return True


def stored(root: Path, sweep: str, digest: str) -> tuple[Result | None, str]:
    """The finished run of a point, and the name that its next attempt takes.

    Raises TgsError when that run is going on now.
    """
    for attempt in itertools.count(1):
        name = f"{sweep}-{digest}" + (f"-{attempt}" if attempt > 1 else "")
        if not (root / name).exists():
            return None, name
        run = RunDir(root / name)
        if not (run.path / "run.json").exists():
            continue
        result = results.load_result(run)
        vanished = result.failure is not None and result.failure.kind == "vanished"
        if result.status not in _UNFINISHED and not vanished:
            return result, name
        if result.status == "running":
            raise TgsError(
                f"{run.path} is running now", hint="wait for it, or stop it first", exit_code=ExitCode.STORE
            )
    raise AssertionError("unreachable")


def run_named(
    preset: Preset,
    root: Path,
    name: str,
    tag: str,
    say: Say,
    *,
    emulated: bool = False,
    virtual: VirtualGpu | None = None,
) -> Result:
    """Do one run and store it under this name; `say` gets a line of progress after each silent while."""
    run = run_dir.create(root, preset, name)
    manifest = local.prepare_run(run, preset, emulated=emulated, virtual=virtual)
    manifest.tags = [tag]
    run.write("run.json", manifest)
    return local.supervise(run, Narrator(preset, say).hear)


def told(result: Result) -> str:
    """One line about how a run ended."""
    if result.status == "ok" and result.tgs.median is not None:
        return f"ok, TGS {units.rate(result.tgs.median)}"
    return f"{result.status}: {result.failure.reason if result.failure else ''}"


class Clock:
    """How long the rest will take: the forecasts scaled by what runs took, else their mean."""

    def __init__(self, todo: Sequence[Point]) -> None:
        self._foreseen = all(point.forecast_s for point in todo)
        self._took: list[tuple[float, float]] = []

    def took(self, point: Point, seconds: float) -> None:
        """Count a run that ended, and the seconds that it took."""
        self._took.append((seconds, (point.forecast_s or 1.0) if self._foreseen else 1.0))

    def left(self, rest: Sequence[Point]) -> str:
        """Text with the time left, empty before the first run is over."""
        if not self._took:
            return ""
        factor = sum(s for s, _ in self._took) / sum(weight for _, weight in self._took)
        weights = sum((p.forecast_s or 1.0) if self._foreseen else 1.0 for p in rest)
        return f"  ({units.duration(factor * weights)} left)"


def _point(spec: Spec, values: dict[str, str], machine: preflight.LocalMachine) -> Point:
    point = Point(values=values)
    try:
        engines = list(map(str, spec.grid.get("engine.name", [])))
        fixed = registry.assignments_for(values.get("engine.name", ""), engines, spec.fixed)
        assignments = [*fixed, *(f"{key}={value}" for key, value in values.items())]
        preset = presets.resolve(spec.preset, assignments).preset
        preset = rehearsal_on(preset, machine) if spec.rehearse else preset
        point.preset, point.digest = preset, digest_of(preset)
        preflight.check(preset, machine, preset.world_size)
        _forecast(point, preset)
    except TgsError as error:
        point.skipped = _shortened(error)
    return point


def _shortened(error: TgsError) -> str:
    """The first of several problems, and how many more there are."""
    head, *problems = error.msg.splitlines()
    if not problems:
        return head
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0].strip() + more


def _forecast(point: Point, preset: Preset) -> None:
    """Estimated speed and duration; a point that the planner says cannot fit is skipped."""
    try:
        found = forecast_preset(preset)
    except TgsError:
        return
    point.forecast_tgs = found.tgs.estimate if found.tgs else None
    if found.step_s:
        point.forecast_s = found.step_s * (preset.measure.steps + preset.measure.warmup)
    if found.verdict == "out of memory":
        point.skipped = f"planned out of memory: {found.reason}".strip()


def digest_of(preset: Preset) -> str:
    """Ten digits that two different presets do not share, nor two versions of the software or its code."""
    text = f"{presets.to_toml(preset)}{code_digest()}{_software()}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@lru_cache
def _software() -> str:
    """Versions of what is installed, without importing any of it: another one's results are not these."""
    return str(sorted(software(registry.engine_distributions()).items()))


def _short(key: str) -> str:
    """What a spec may call a preset's key: engine, not the last part of engine.name."""
    return next((short for short, whole in SHORT.items() if whole == key), key.rpartition(".")[2])


def _flat(table: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys, so that `grid.parallel.sp` and `"parallel.sp"` say the same."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, bool | list) else str(value)


def _is_long(value: Any) -> bool:
    try:
        return len(str(value)) > _MAX_VALUE
    except ValueError:  # 0xfff… of thousands of digits, which Python reads and does not write
        return True


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "more than 10^15"


def _bad(path: Path, why: str) -> TgsError:
    return TgsError(f"{path}: {why}", exit_code=ExitCode.BAD_PRESET)
