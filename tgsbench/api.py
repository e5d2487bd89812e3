"""The Python API: what the commands do, as functions that return typed documents and raise TgsError.

Nothing is printed and no process is ended. `import tgsbench` alone imports none of this; it offers `run`,
`plan`, `profile`, `compare` and `load_run`. The other functions here are what the command line is made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from tgsbench import presets
from tgsbench.errors import TgsError

if TYPE_CHECKING:
    from tgsbench.launch.watch import StopSignals
    from tgsbench.planner.machine import Machine
    from tgsbench.results.compare import Comparison
    from tgsbench.results.repeats import RepeatedRuns
    from tgsbench.results.row_specs import RowFinder
    from tgsbench.results.rows import Row
    from tgsbench.schema.events import Event
    from tgsbench.schema.forecast import Forecast
    from tgsbench.schema.hotspots import Profile
    from tgsbench.schema.preset import Preset
    from tgsbench.schema.run import Result, VirtualGpu
    from tgsbench.store.run_dir import RunDir
    from tgsbench.tune.candidates import Space
    from tgsbench.tune.journal import Asked
    from tgsbench.tune.longest import PlannedLength

# Every function imports what it needs: a command uses one of them, and all together start in twice its time.

Overrides: TypeAlias = Mapping[str, object] | Iterable[str]
"""Values over a preset's own: {"measure.steps": 2}, or texts as after --set: ["measure.steps=2"]."""

RowSource: TypeAlias = "str | Row | Result | RepeatedRuns"
"""What can be compared: a word of `tgsbench compare`, a row, a result, or several of one measurement."""

Listener: TypeAlias = "Callable[[list[Event]], None]"
"""Gets the ranks' events as they come, some at a time."""


def _hear_nothing(events: list[Event]) -> None:
    pass


@overload
def run(
    preset: str | Path,
    set: Overrides = (),
    *,
    rehearse: bool = False,
    emulate_rank: bool = False,
    virtual_gpu: str = "",
    rank: int | str = 0,
    name: str = "",
    root: str | Path | None = None,
    on_events: Listener = _hear_nothing,
) -> Result: ...
@overload
def run(
    preset: str | Path,
    set: Overrides = (),
    *,
    repeats: int,
    rehearse: bool = False,
    name: str = "",
    root: str | Path | None = None,
    on_events: Listener = _hear_nothing,
) -> RepeatedRuns: ...
def run(
    preset: str | Path,
    set: Overrides = (),
    *,
    repeats: int | None = None,
    rehearse: bool = False,
    emulate_rank: bool = False,
    virtual_gpu: str = "",
    rank: int | str = 0,
    name: str = "",
    root: str | Path | None = None,
    on_events: Listener = _hear_nothing,
) -> Result | RepeatedRuns:
    """Train a preset on this machine, store the run, and return what was measured.

    A run that went out of memory, crashed or stalled is a result too: look at `status` and `failure`.
    `repeats` (2 or more) measures so often, each time in fresh processes, and returns all runs with one row,
    whose TGS is their mean and whose interval is the spread between them; a run that was stopped is the last.
    `virtual_gpu` names a GPU of presets/hardware that need not be there: `rank` of the whole world, or "all"
    ranks, run on it, and the result (status `virtual`) says what they did. `root` is the folder of runs
    ($TGSBENCH_RUNS or ./runs), `name` the run's own folder in it (of several: NAME-1, NAME-2, …);
    `on_events` gets the ranks' events as they come. Raises TgsError when nothing could be started. In the
    main thread Ctrl-C ends the ranks, stores what was measured as `cancelled` and raises KeyboardInterrupt;
    signal handlers are then as they were before.
    """
    from tgsbench.launch import local
    from tgsbench.launch.watch import StopSignals

    if repeats is not None:
        _check_repeats(repeats, {"emulate_rank": emulate_rank, "virtual_gpu": virtual_gpu})
    resolved = load_preset(preset, set, rehearse=rehearse, virtual_gpu=virtual_gpu)
    virtual = on_virtual_gpu(resolved, virtual_gpu, rank) if virtual_gpu else None
    check_machine(resolved, emulate_rank=emulate_rank, virtual=virtual)
    found: Result | RepeatedRuns
    with StopSignals() as stop:
        if repeats is not None:
            found = _run_repeatedly(resolved, runs_root(root), name, repeats, on_events, stop)
        else:
            folder = prepare(resolved, runs_root(root), name, emulate_rank=emulate_rank, virtual=virtual)
            found = local.supervise(folder, on_events, stop=stop)
    stop.send_on()
    return found


def _check_repeats(repeats: int, never_with: Mapping[str, object]) -> None:
    """Raise TgsError for a number of repeats below 2, or an option that measures nothing to repeat."""
    if repeats < 2:
        raise TgsError(
            f"repeats={repeats}: two runs are the fewest that vary", hint="leave repeats out for one"
        )
    for option, value in never_with.items():
        if value:
            raise TgsError(f"repeats has no effect with {option}: leave out one of them")


def _run_repeatedly(
    preset: Preset, root: Path, name: str, num_runs: int, on_events: Listener, stop: StopSignals
) -> RepeatedRuns:
    from tgsbench.launch import local, repeats
    from tgsbench.results.repeats import summed_up

    group = repeats.free_group(root, preset, name)

    def supervise(folder: RunDir, index: int) -> Result:
        return local.supervise(folder, on_events, stop=stop)

    return summed_up(group, repeats.run_all(preset, root, group, num_runs, supervise))


def plan(
    preset: str | Path, set: Overrides = (), *, gpu: str = "", link: str = "", system: str = ""
) -> Forecast:
    """Forecast a preset without running it: memory, TGS with its error bar, and what would be better.

    `gpu`, `link` (between nodes) and `system` (xtuner, …) replace the preset's own. Raises TgsError for an
    unknown preset or hardware, and for sizes that no plan can be made for.
    """
    return forecast(load_preset(preset, set), gpu=gpu, link=link, system=system)


def profile(
    *sources: str | Path,
    root: str | Path | None = None,
    again: bool = False,
    processes: int | None = 1,
    on_read: Callable[[int], None] = lambda num_bytes: None,
) -> Profile:
    """Say where the step's time goes: of a run (the newest without a name), or of trace files and folders.

    What was analysed before is read back unless `again`. `processes` reads several ranks' traces at once
    (None: as many as there are cores); a script that asks for more than one needs the usual guard
    `if __name__ == "__main__"`. `on_read` is told of unpacked bytes as they are read. Raises TgsError when
    there is no trace or one is damaged.
    """
    from tgsbench.traces import sources as traces

    names = [str(source) for source in sources] or ["latest"]
    return traces.load_profile(names, runs_root(root), processes, again, on_read)


def compare(
    *sources: RowSource,
    baseline: RowSource | None = None,
    force: bool = False,
    root: str | Path | None = None,
) -> list[Comparison]:
    """Compare rows with the first of them, or with `baseline`; one Comparison for each other row.

    A source is a result, what `run` returned for several repeats, a row or a word: a run (name, part of it,
    folder, "latest"), "xtuner:PRESET", "published:PRESET", "predicted:PRESET". Rows that measure different
    things have no ratio unless `force`. Raises TgsError for an unknown word, and when there are not two rows.
    """
    from tgsbench.results.compare import compare as compare_rows
    from tgsbench.results.row_specs import RowFinder
    from tgsbench.schema.reference import XTUNER

    finder = RowFinder(runs_root(root))
    found = [row for source in sources for row in _rows(source, finder)]
    base = found.pop(0) if baseline is None and found else None
    if baseline is not None:
        base = _rows(baseline, finder)[0]
    if base is None or not found:
        raise TgsError("compare needs two rows", hint=f"tgsbench compare RUN {XTUNER}:llama2_7b_32k")
    return [compare_rows(row, base, force=force) for row in found]


def load_run(run: str | Path = "latest", *, root: str | Path | None = None) -> Result:
    """The result of a stored run: its name, a unique part of it, its folder, or "latest".

    Derived from the run's events where nobody wrote it; where somebody did, what the events contradict is
    among its warnings. Raises TgsError for an unknown or damaged run.
    """
    from tgsbench.results.results import check_against_events, load_result
    from tgsbench.store import run_dir

    folder = run_dir.find(runs_root(root), str(run))
    found = load_result(folder)
    found.warnings += check_against_events(folder, found)
    return found


def load_preset(
    preset: str | Path, set: Overrides = (), *, rehearse: bool = False, virtual_gpu: str = ""
) -> Preset:
    """The preset of a name or .toml file with `set` over it; `rehearse` shrinks it to this machine.

    `virtual_gpu` puts it on that GPU and, below `set`, makes it short.

    Raises TgsError listing every problem found, each with where its value came from.
    """
    assignments = _assignments(set)
    if virtual_gpu:
        from tgsbench.virtual_gpu import settings

        gpu = settings.find_virtual_gpu(virtual_gpu)
        plain = presets.resolve(presets.named(str(preset)), assignments).preset
        assignments = [*settings.short_run(plain, gpu), *assignments]
    resolved = presets.resolve(presets.named(str(preset)), assignments).preset
    if not rehearse:
        return resolved
    from tgsbench.launch import preflight
    from tgsbench.launch.rehearse import rehearsal_on

    return rehearsal_on(resolved, preflight.this_machine())


def on_virtual_gpu(preset: Preset, gpu: str, rank: int | str = 0) -> VirtualGpu:
    """The virtual GPU that a rank, or "all", of a preset runs on. Raises TgsError for what cannot be."""
    from tgsbench.virtual_gpu import settings

    return settings.virtual_gpu(preset, settings.find_virtual_gpu(gpu), str(rank))


def check_machine(preset: Preset, *, emulate_rank: bool = False, virtual: VirtualGpu | None = None) -> None:
    """Raise TgsError (exit code 3, 4, 6 or 13) when this machine cannot run the preset, or one rank of it."""
    from tgsbench.launch import preflight
    from tgsbench.presets.recipes import load_recipe
    from tgsbench.systems import support

    if preset.profile:
        load_recipe(preset.profile)
    if virtual is not None:
        from tgsbench.virtual_gpu import settings

        support.check(preset, on_virtual_gpu=True)
        settings.installation_for(preset)
        return
    if emulate_rank:
        if preset.is_external:
            support.refuse_option(preset, "--emulate-rank")
        preflight.check_emulation(preset, on_several=False)
    num_ranks = 1 if emulate_rank else preset.world_size
    preflight.check(preset, preflight.this_machine(), num_ranks, emulated=emulate_rank)


def prepare(
    preset: Preset,
    root: Path,
    name: str = "",
    *,
    emulate_rank: bool = False,
    virtual: VirtualGpu | None = None,
) -> RunDir:
    """Make the folder of a run that `launch.local.supervise` can start, with the forecast made before it.

    Raises TgsError when the folder cannot be written or is there already.
    """
    from tgsbench.launch import local
    from tgsbench.store import run_dir

    folder = run_dir.create(root, preset, name)
    local.prepare_run(folder, preset, emulated=emulate_rank, virtual=virtual)
    return folder


def forecast(
    preset: Preset, *, gpu: str = "", link: str = "", system: str = "", price: float | None = None
) -> Forecast:
    """The forecast of a resolved preset, with advice; `price` is USD for an hour of one GPU.

    Raises TgsError as `plan` does.
    """
    from msgspec.structs import replace

    from tgsbench.planner.advice import advise
    from tgsbench.planner.plan import assemble, estimate, published_notes
    from tgsbench.systems.registry import find_system, system_of

    machine = planned_machine(preset, gpu, link, price)
    numbers = estimate(preset, machine, find_system(system) if system else system_of(preset.engine))
    document = assemble(preset, numbers)
    notes = [*document.notes, *published_notes(preset, numbers)]
    return replace(document, notes=notes, advice=advise(preset, numbers))


def tune_space(asked: Asked, prices: Mapping[str, float] | None = None) -> Space:
    """Every way to train that a tune may try, planned; `prices`: USD for an hour of a GPU by name, "" any.

    Raises TgsError for presets and hardware that `plan` refuses, and where a price is needed and not known.
    """
    import itertools

    from tgsbench.tune.candidates import Base, space_over

    bases = []
    for values in itertools.product(*asked.tried.values()):
        tried = dict(zip(asked.tried, values, strict=True))
        preset = load_preset(asked.base, [*asked.assignments, *(f"{k}={v}" for k, v in tried.items())])
        known = prices or {}
        machine = planned_machine(preset, price=known.get(preset.hardware.gpu, known.get("")))
        by_price = asked.objective == "tokens-per-dollar"
        if by_price and not machine.gpu.price_usd_per_hour:
            raise TgsError(
                f"no price of {machine.gpu.name} is known, so tokens have none",
                hint="--price USD, or GPU=USD, for an hour of one",
            )
        bases.append(Base(preset=preset, machine=machine, tried=tried, by_price=by_price))
    return space_over(bases, asked.engines, asked.held)


def longest_planned(asked: Asked) -> PlannedLength:
    """The longest sequence that is planned to fit, of what a tune may try, and the leanest way there.

    Raises TgsError when no length fits.
    """
    from tgsbench.planner.plan import estimate
    from tgsbench.planner.search import leanest_at_longest
    from tgsbench.tune.candidates import Base, allowed
    from tgsbench.tune.longest import PlannedLength

    preset = load_preset(asked.base, asked.assignments)
    machine = planned_machine(preset)
    allows = allowed(Base(preset=preset, machine=machine), asked.engines, asked.held)
    found = leanest_at_longest(preset, machine, allows)
    time = estimate(found, machine).time if machine.constants is not None else None
    return PlannedLength(preset=found, own=preset.workload.seq_len, step_s=time.step_s if time else None)


def planned_machine(preset: Preset, gpu: str = "", link: str = "", price: float | None = None) -> Machine:
    """The machine to plan for; a CPU rank's memory is its share of this machine's.

    `price`, USD for an hour of one GPU, replaces that of its hardware file.

    Raises TgsError for unknown hardware, and for sizes that no plan can be made for.
    """
    from msgspec.structs import replace

    from tgsbench.planner.limits import check_sizes
    from tgsbench.planner.plan import machine_of

    check_sizes(preset)
    machine = machine_of(preset, gpu, link)
    if price is not None:
        machine = replace(machine, gpu=replace(machine.gpu, price_usd_per_hour=price))
    if machine.gpu.name != "cpu":
        return machine
    import psutil

    from tgsbench.units import GIB

    share_gib = psutil.virtual_memory().total / GIB / preset.world_size
    return replace(machine, gpu=replace(machine.gpu, memory_gib=share_gib))


def runs_root(root: str | Path | None) -> Path:
    """Folder of all runs: the one named, $TGSBENCH_RUNS, or ./runs."""
    from tgsbench.store import run_dir

    return run_dir.runs_root(Path(root) if root else None)


def _assignments(overrides: Overrides) -> Sequence[str]:
    """Overrides as `key=value` texts; values as JSON, so that a text such as "1" stays one."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def _rows(source: RowSource, finder: RowFinder) -> list[Row]:
    from tgsbench.results import repeats, rows
    from tgsbench.schema.run import Result

    if isinstance(source, rows.Row):
        return [source]
    if isinstance(source, repeats.RepeatedRuns):
        return [source.row]
    return [rows.from_result(source)] if isinstance(source, Result) else finder.resolve(source)
