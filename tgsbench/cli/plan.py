"""`tgsbench plan`: does it fit, how fast will it be, what should change; no GPU and no torch needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_idle, refuse_together
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner.limits import MAX_GPUS
from tgsbench.planner.plan import estimate, why_no_time
from tgsbench.presets import catalog, data_names
from tgsbench.presets.config_file import short_name
from tgsbench.report import plan as report
from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import System
from tgsbench.systems.registry import find_system, system_of

if TYPE_CHECKING:
    from tgsbench.planner.calibrate import Sample


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one call, as typed."""

    name: str | None
    model: str | None
    seq_len: str | None
    gpu: str
    num_gpus: int | None
    link: str
    system_name: str
    price: float | None
    sets: tuple[str, ...]
    searching: bool
    top: int
    longest: bool
    scale_to: str | None
    chrome: Path | None
    tracing: bool
    calibrate: bool
    from_imported: bool
    folder: Path | None
    list_gpus: bool
    list_links: bool
    as_json: bool
    runs: tuple[str, ...]


@click.command()
@click.option(
    "--preset", "name", shell_complete=complete.presets, help="Name of a preset, or path of a .toml file."
)
@click.option(
    "--model",
    shell_complete=complete.models,
    help="Plan a model (of `tgsbench models`, or a config.json) instead of a preset.",
)
@click.option("--seq-len", help="Packed sequence length, such as 128k or 1M.")
@click.option(
    "--gpu", shell_complete=complete.gpus, default="", help="GPU to plan for instead of the preset's."
)
@click.option("--num-gpus", type=int, help="Number of GPUs instead of the preset's.")
@click.option(
    "--link", shell_complete=complete.links, default="", help="Interconnect between nodes (--list-links)."
)
@click.option("--system", "system_name", default="", help="Training system to plan instead of the preset's.")
@click.option("--price", type=click.FloatRange(min=0), help="USD for an hour of one GPU.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@click.option("--search", "searching", is_flag=True, help="Rank every feasible mesh, mode and engine.")
@click.option("--top", type=click.IntRange(min=1), default=10, help="Lines of a search.")
@click.option("--max-seq-len", "longest", is_flag=True, help="Find the longest sequence that fits.")
@click.option("--scale", "scale_to", metavar="N,N,…", help="Plan for each number of GPUs, and plot.")
@click.option("--chrome", type=click.Path(path_type=Path, dir_okay=False), help="Write the step as a trace.")
@click.option("--trace", "tracing", is_flag=True, help="Run one rank's step on fake tensors (needs torch).")
@click.option("--calibrate", is_flag=True, help="Fit this machine's constants on RUNS and store them.")
@click.option(
    "--from-imported", is_flag=True, help="Fit on imported rows: RUNS are their names, or all of --gpu."
)
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--list-gpus", is_flag=True, help="GPUs that are described, and whether constants are known.")
@click.option("--list-links", is_flag=True, help="Interconnects that are described.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("runs", nargs=-1, shell_complete=complete.runs)
def plan(**options: Any) -> None:
    """Forecast a preset: memory, TGS and where the step's time goes, before a GPU-hour is spent."""
    refuse_idle({"top": "searching", "folder": "calibrate", "from_imported": "calibrate"})
    refuse_together(
        *itertools.combinations(("searching", "longest", "scale_to", "tracing", "calibrate"), 2),
        *((mode, "chrome") for mode in ("searching", "longest", "scale_to", "tracing", "calibrate")),
        ("system_name", "searching"),
        ("system_name", "longest"),
        ("num_gpus", "scale_to"),
    )
    asked = PlanOptions(**options)
    _mode(asked)(asked)


def _mode(asked: PlanOptions) -> Callable[[PlanOptions], None]:
    """What the options ask for. Raises TgsError for words that do not go together."""
    if asked.list_gpus or asked.list_links:
        return _list_gpus if asked.list_gpus else _list_links
    if asked.calibrate:
        return _calibrate
    if asked.runs:
        raise TgsError(f"unexpected argument {asked.runs[0]!r}", hint="RUNS belong to --calibrate")
    if asked.longest:
        return _max_seq_len
    if asked.searching:
        return _search
    if asked.scale_to is not None:
        return _scale
    return _trace if asked.tracing else _forecast


def _preset(asked: PlanOptions) -> Preset:
    """The preset, or the reference settings with a model, a length and a number of GPUs."""
    if (asked.name is None) == (asked.model is None):
        raise TgsError("name what to plan: either --preset NAME or --model NAME", hint="tgsbench presets")
    num_gpus = asked.num_gpus
    if num_gpus is not None and not 1 <= num_gpus <= MAX_GPUS:
        raise TgsError(f"--num-gpus {num_gpus}: must be 1 to {MAX_GPUS:,}", exit_code=ExitCode.BAD_PRESET)
    assignments = [f"workload.seq_len={asked.seq_len}"] if asked.seq_len else []
    assignments += [f"hardware.num_gpus={num_gpus}"] if num_gpus is not None else []
    if asked.name is not None:
        return api.load_preset(asked.name, [*assignments, *asked.sets])
    if not asked.seq_len or num_gpus is None or not asked.gpu:
        given = {"--seq-len": asked.seq_len, "--num-gpus": num_gpus, "--gpu": asked.gpu}
        missing = ", ".join(option for option, value in given.items() if not value)
        raise TgsError(f"--model also needs {missing}", hint="or name a --preset")
    shown = f"{short_name(asked.model or '')}_{asked.seq_len}"
    return api.load_preset("_reference", [f"model={asked.model}", f"name={shown}", *assignments, *asked.sets])


def _of_a_search(asked: PlanOptions) -> Preset:
    """The preset of a search, which tries every sp: its own one may be of more GPUs than are asked for."""
    if asked.name is None or not asked.num_gpus or any(text.startswith("parallel.") for text in asked.sets):
        return _preset(asked)
    own = api.load_preset(asked.name).parallel.sp
    sp = math.gcd(own, asked.num_gpus)
    sets = (f"parallel.sp={sp}", *asked.sets) if sp != own else asked.sets
    return _preset(replace(asked, sets=sets))


def _forecast(asked: PlanOptions) -> None:
    preset = _preset(asked)
    document = api.forecast(
        preset, gpu=asked.gpu, link=asked.link, system=asked.system_name, price=asked.price
    )
    if asked.chrome is not None:
        _write_trace(asked, preset, asked.chrome)
    _print(asked.as_json, document, lambda: report.plan_lines(document))
    _tell_of_data(preset)


def _tell_of_data(preset: Preset) -> None:
    """A plan needs no data; whether a run of it would find enough is said beside it."""
    if not data_names.is_here(preset.workload):
        return
    from tgsbench.launch.preflight import data_words

    try:
        if words := data_words(preset):
            diagnostics.note(f"data: {words}")
    except TgsError as error:
        told = f"a run would be refused (exit code {int(error.exit_code)}): {error.msg}"
        diagnostics.warn(told, error.hint)


def _write_trace(asked: PlanOptions, preset: Preset, path: Path) -> None:
    from tgsbench.planner.chrome import chrome_trace  # here, as below: a start pays for what it does alone

    machine = api.planned_machine(preset, asked.gpu, asked.link, asked.price)
    numbers = estimate(preset, machine, _system(asked, preset))
    if numbers.time is None:
        why, remedy = why_no_time(preset, machine)
        raise TgsError(f"{why}: there is no time to draw", hint=remedy, exit_code=ExitCode.UNKNOWN_HARDWARE)
    try:
        path.write_bytes(msgspec.json.encode(chrome_trace(numbers, preset.name)))
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error
    diagnostics.note(f"wrote {path}: open it in https://ui.perfetto.dev or chrome://tracing")


def _system(asked: PlanOptions, preset: Preset) -> System:
    return find_system(asked.system_name) if asked.system_name else system_of(preset.engine)


def _max_seq_len(asked: PlanOptions) -> None:
    from tgsbench.planner.search import max_seq_len

    if asked.model and not asked.seq_len:
        asked = replace(asked, seq_len="8k")  # only where the search over lengths starts
    preset = _of_a_search(asked)
    best = max_seq_len(preset, api.planned_machine(preset, asked.gpu, asked.link, asked.price))
    _print(asked.as_json, best, lambda: report.longest_lines(best))


def _search(asked: PlanOptions) -> None:
    from tgsbench.planner.search import search

    preset = _of_a_search(asked)
    machine = api.planned_machine(preset, asked.gpu, asked.link, asked.price)
    found = search(preset, machine)
    _print(asked.as_json, found, lambda: report.search_lines(found, asked.top))
    if not found.candidates:
        raise TgsError(
            f"{preset.model.name} at {preset.workload.seq_len:,} tokens fits no way on "
            f"{preset.world_size} x {machine.gpu.name}",
            hint="--max-seq-len says what would fit",
            exit_code=ExitCode.DOES_NOT_FIT,
        )


def _gpu_counts(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise TgsError(f"--scale {text}: write numbers of GPUs such as 8,16,32") from error
    if any(not 1 <= n <= MAX_GPUS for n in numbers):
        raise TgsError(f"--scale {text}: numbers of GPUs must be 1 to {MAX_GPUS:,}")
    return numbers


def _scale(asked: PlanOptions) -> None:
    from tgsbench.planner.scale import scale

    numbers = _gpu_counts(asked.scale_to or "")
    if asked.model and asked.num_gpus is None:
        asked = replace(asked, num_gpus=numbers[0])
    preset = _preset(asked)
    machine = api.planned_machine(preset, asked.gpu, asked.link, asked.price)
    free_sp = asked.model is not None and not any(text.startswith("parallel.sp") for text in asked.sets)
    points = scale(preset, _system(asked, preset), machine, numbers, free_sp=free_sp)
    _print(asked.as_json, points, lambda: report.scale_lines(points))


def _trace(asked: PlanOptions) -> None:
    from tgsbench.launch.dry_run import dry_run
    from tgsbench.planner.stream import planned_stream

    preset = _preset(asked)
    machine = api.planned_machine(preset, asked.gpu, asked.link, asked.price)
    run = dry_run(preset)
    planned = planned_stream(estimate(preset, machine, _system(asked, preset)).work)
    document = {"stream": run, "totals": report.dry_run_totals(run), "planned": planned}
    _print(asked.as_json, document, lambda: report.dry_run_lines(run, planned))


def _calibrate(asked: PlanOptions) -> None:
    from tgsbench.results.calibrate_on_runs import calibrate_on

    found, path = calibrate_on(_samples(asked))

    def lines() -> list[str]:
        return [f"constants of {found.constants.name} written to {path}", *report.calibration_lines(found)]

    document = {
        "path": str(path),
        "constants": found.constants,
        "errors": found.errors,
        "moved": found.moved,
        "guesses": found.guesses,
        "disturbed": found.disturbed,
    }
    _print(asked.as_json, document, lines)


def _samples(asked: PlanOptions) -> list[Sample]:
    from tgsbench.results.calibrate_on_runs import sample
    from tgsbench.results.imported_samples import ImportedSettings, imported_samples
    from tgsbench.store import run_dir

    root = run_dir.runs_root(asked.folder)
    if not asked.from_imported:
        return [sample(run_dir.find(root, name)) for name in asked.runs]
    said = ImportedSettings(preset=asked.name or "", sets=asked.sets, system=asked.system_name)
    return imported_samples(root, asked.runs, said, asked.gpu)


def _list_gpus(asked: PlanOptions) -> None:
    known = catalog.load_gpus()
    fitted = {gpu: constants for constants in catalog.load_constants() for gpu in constants.gpus}

    def line(name: str) -> str:
        gpu, constants = known[name], fitted.get(name)
        state = "no constants" if constants is None else constants.carried_over or "constants fitted"
        return f"{name:<18} {gpu.bf16_tflops:>7g} TFLOPs {gpu.memory_gib:>6g} GiB   {state}"

    _print(asked.as_json, known, lambda: list(map(line, known)))


def _list_links(asked: PlanOptions) -> None:
    known = catalog.load_links()

    def line(name: str) -> str:
        link = known[name]
        return f"{name:<24} {link.inter_node_gb_per_s:>7g} GB/s per GPU   {link.description}"

    _print(asked.as_json, known, lambda: list(map(line, known)))


def _print(as_json: bool, document: Any, lines: Callable[[], list[str]]) -> None:
    if as_json:
        output.json(document)
        return
    for line in lines():
        output.line(line)
