"""`tgsbench plan`: does it fit, how fast will it be, what should change; no GPU and no torch needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from tgsbench import presets
from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner import scale as scaling
from tgsbench.planner.advice import advise
from tgsbench.planner.chrome import chrome_trace
from tgsbench.planner.limits import MAX_GPUS, check_sizes
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import Estimate, assemble, estimate, machine_of, why_no_time
from tgsbench.planner.search import max_seq_len, search
from tgsbench.planner.stream import planned_stream
from tgsbench.presets import catalog
from tgsbench.report import plan as report
from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import System
from tgsbench.systems.registry import find_system
from tgsbench.units import GIB, percent


class Asked(msgspec.Struct, frozen=True):
    """What the options of one call come to."""

    preset: Preset
    machine: Machine
    system: System
    as_json: bool


@click.command()
@click.option("--preset", "name", help="Name of a preset, or path of a .toml file.")
@click.option("--model", help="Plan a model of presets/models instead of a preset.")
@click.option("--seq-len", help="Packed sequence length, such as 128k or 1M.")
@click.option("--gpu", default="", help="GPU to plan for instead of the preset's.")
@click.option("--num-gpus", type=int, help="Number of GPUs instead of the preset's.")
@click.option("--link", default="", help="Interconnect between nodes (--list-links).")
@click.option("--system", "system_name", default="", help="Training system to plan instead of the preset's.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value of the preset.")
@click.option("--search", "searching", is_flag=True, help="Rank every feasible mesh, mode and engine.")
@click.option("--top", type=click.IntRange(min=1), default=10, help="Lines of a search.")
@click.option("--max-seq-len", "longest", is_flag=True, help="Find the longest sequence that fits.")
@click.option("--scale", "scale_to", metavar="N,N,…", help="Plan for each number of GPUs, and plot.")
@click.option("--chrome", type=click.Path(path_type=Path, dir_okay=False), help="Write the step as a trace.")
@click.option("--trace", "tracing", is_flag=True, help="Run one rank's step on fake tensors (needs torch).")
@click.option("--calibrate", is_flag=True, help="Fit this machine's constants on RUNS and store them.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--list-gpus", is_flag=True, help="GPUs that are described, and whether constants are known.")
@click.option("--list-links", is_flag=True, help="Interconnects that are described.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("runs", nargs=-1)
def plan(
    name: str | None,
    model: str | None,
    seq_len: str | None,
    gpu: str,
    num_gpus: int | None,
    link: str,
    system_name: str,
    sets: tuple[str, ...],
    searching: bool,
    top: int,
    longest: bool,
    scale_to: str | None,
    chrome: Path | None,
    tracing: bool,
    calibrate: bool,
    folder: Path | None,
    list_gpus: bool,
    list_links: bool,
    as_json: bool,
    runs: tuple[str, ...],
) -> None:
    """Forecast a preset: memory, TGS and where the step's time goes, before a GPU-hour is spent."""
    if list_gpus or list_links:
        _list(list_gpus, as_json)
        return
    if calibrate:
        _calibrate(runs, folder, as_json)
        return
    if runs:
        raise TgsError(f"unexpected argument {runs[0]!r}", hint="RUNS belong to --calibrate")
    if scale_to and (searching or longest):
        raise TgsError("--scale plans one way for each number of GPUs: leave out --search and --max-seq-len")
    scale_over = _gpu_counts(scale_to) if scale_to is not None else []
    if model and scale_over and num_gpus is None:
        num_gpus = scale_over[0]
    if model and longest and not seq_len:
        seq_len = "8k"  # only where a search over lengths starts
    preset = _preset(name, model, seq_len, num_gpus, gpu, sets)
    asked = _asked(preset, gpu, link, system_name, as_json)
    if searching or longest:
        _search(asked, longest, top)
    elif scale_over:
        free_sp = model is not None and not any(text.startswith("parallel.sp") for text in sets)
        _scale(asked, scale_over, free_sp)
    elif tracing:
        _trace(asked)
    else:
        _plan(asked, chrome)


def _preset(
    name: str | None,
    model: str | None,
    seq_len: str | None,
    num_gpus: int | None,
    gpu: str,
    sets: tuple[str, ...],
) -> Preset:
    """The preset, or the reference settings with a model, a length and a number of GPUs."""
    if (name is None) == (model is None):
        raise TgsError("name what to plan: either --preset NAME or --model NAME", hint="tgsbench presets")
    if num_gpus is not None and not 1 <= num_gpus <= MAX_GPUS:
        raise TgsError(f"--num-gpus {num_gpus}: must be 1 to {MAX_GPUS:,}", exit_code=ExitCode.BAD_PRESET)
    assignments = [f"workload.seq_len={seq_len}"] if seq_len else []
    assignments += [f"hardware.num_gpus={num_gpus}"] if num_gpus is not None else []
    if name is not None:
        return presets.resolve(presets.named(name), [*assignments, *sets]).preset
    if not seq_len or num_gpus is None or not gpu:
        given = {"--seq-len": seq_len, "--num-gpus": num_gpus, "--gpu": gpu}
        missing = ", ".join(option for option, value in given.items() if not value)
        raise TgsError(f"--model also needs {missing}", hint="or name a --preset")
    shown = f"{model}_{seq_len}"
    return presets.resolve("_reference", [f"model={model}", f"name={shown}", *assignments, *sets]).preset


def _asked(preset: Preset, gpu: str, link: str, system: str, as_json: bool) -> Asked:
    """Find the machine; a CPU rank's memory is its share of this machine's."""
    check_sizes(preset)
    machine = machine_of(preset, gpu, link)
    if machine.gpu.name == "cpu":
        import psutil

        share = psutil.virtual_memory().total / GIB / preset.world_size
        machine = Machine(
            msgspec.structs.replace(machine.gpu, memory_gib=share), machine.link, machine.constants
        )
    return Asked(preset, machine, find_system(system or preset.engine.name), as_json)


def _plan(asked: Asked, chrome: Path | None) -> None:
    numbers = estimate(asked.preset, asked.system, asked.machine)
    document = assemble(asked.preset, asked.system, asked.machine, numbers)
    advice = advise(asked.preset, asked.system, asked.machine, numbers)
    document = msgspec.structs.replace(document, advice=advice)
    if chrome is not None:
        _write_trace(asked, numbers, chrome)
    _print(asked.as_json, document, lambda: report.plan_lines(document))


def _write_trace(asked: Asked, numbers: Estimate, path: Path) -> None:
    if numbers.time is None:
        why, remedy = why_no_time(asked.preset, asked.machine)
        raise TgsError(f"{why}: there is no time to draw", hint=remedy, exit_code=ExitCode.UNKNOWN_HARDWARE)
    try:
        path.write_bytes(msgspec.json.encode(chrome_trace(numbers, asked.preset.name)))
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error
    diagnostics.note(f"wrote {path}: open it in https://ui.perfetto.dev or chrome://tracing")


def _search(asked: Asked, longest: bool, top: int) -> None:
    if longest:
        best = max_seq_len(asked.preset, asked.machine)
        _print(asked.as_json, best, lambda: report.longest_lines(best))
        return
    found = search(asked.preset, asked.machine)
    _print(asked.as_json, found, lambda: report.search_lines(found, top))
    if not found.candidates:
        raise TgsError(
            f"{asked.preset.model.name} at {asked.preset.workload.seq_len:,} tokens fits no way on "
            f"{asked.preset.world_size} x {asked.machine.gpu.name}",
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


def _scale(asked: Asked, numbers: list[int], free_sp: bool) -> None:
    points = scaling.scale(asked.preset, asked.system, asked.machine, numbers, free_sp=free_sp)
    _print(asked.as_json, points, lambda: report.scale_lines(points))


def _trace(asked: Asked) -> None:
    # Here, as in _calibrate and _asked: what most plans do not use is half of the command's start.
    from tgsbench.launch.dry_run import dry_run

    run = dry_run(asked.preset)
    planned = planned_stream(estimate(asked.preset, asked.system, asked.machine).work, asked.system)
    document = {"stream": run, "totals": report.dry_run_totals(run), "planned": planned}
    _print(asked.as_json, document, lambda: report.dry_run_lines(run, planned))


def _calibrate(names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    from tgsbench.results.calibrate_on_runs import calibrate_on
    from tgsbench.store import run_dir

    root = run_dir.runs_root(folder)
    found, path = calibrate_on([run_dir.find(root, name) for name in names])

    def lines() -> list[str]:
        errors = [
            f"  {label:<44} predicted {error:+.1%} against measured" for label, error in found.errors.items()
        ]
        bar = percent(found.constants.error_share)
        return [f"constants of {found.constants.name} written to {path}", *errors, f"error bar ±{bar}"]

    _print(as_json, {"path": str(path), "constants": found.constants, "errors": found.errors}, lines)


def _list(gpus: bool, as_json: bool) -> None:
    known: dict[str, Any] = dict(catalog.load_gpus() if gpus else catalog.load_links())
    fitted = {gpu: constants for constants in catalog.load_constants() for gpu in constants.gpus}

    def lines() -> list[str]:
        if not gpus:
            return [
                f"{n:<24} {v.inter_node_gb_per_s:>7g} GB/s per GPU   {v.description}"
                for n, v in known.items()
            ]
        out = []
        for name, gpu in known.items():
            constants = fitted.get(name)
            state = "no constants" if constants is None else constants.carried_over or "constants fitted"
            out.append(f"{name:<18} {gpu.bf16_tflops:>7g} TFLOPs {gpu.memory_gib:>6g} GiB   {state}")
        return out

    _print(as_json, known, lines)


def _print(as_json: bool, document: Any, lines: Any) -> None:
    if as_json:
        output.json(document)
        return
    for line in lines():
        output.line(line)
