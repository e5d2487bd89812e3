"""Can this machine run this preset? Asked before anything is started, and answered without torch."""

from __future__ import annotations

import psutil
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.spec import num_parameters
from tgsbench.planner import states_bytes
from tgsbench.presets import data_names
from tgsbench.presets.catalog import data_problems
from tgsbench.schema.events import Data
from tgsbench.schema.preset import Preset
from tgsbench.system.clock import preloaded_clock_problem
from tgsbench.system.cores import num_cores
from tgsbench.system.gpus import GpuInfo, list_gpus
from tgsbench.systems import availability, environments, support
from tgsbench.systems.engines import fsdp2
from tgsbench.units import GIB, counted, gib, length


class LocalMachine(Struct, frozen=True):
    """GPUs, CPU cores and free memory in bytes of this machine."""

    gpus: list[GpuInfo]
    num_cores: int
    memory_bytes: int


def this_machine() -> LocalMachine:
    """The GPUs, cores and memory that are here now."""
    return LocalMachine(list_gpus(), num_cores(), psutil.virtual_memory().available)


def check(preset: Preset, machine: LocalMachine, num_local_ranks: int, *, emulated: bool = False) -> None:
    """Raise TgsError (exit code 3, 4, 6 or 13) when the ranks of this node cannot run here.

    An emulated rank takes as many layers as there is memory for.
    """
    support.check(preset)
    if problem := preloaded_clock_problem():
        raise TgsError(
            f"nothing can be timed here: {problem}",
            hint="start tgsbench without that library: env -u LD_PRELOAD tgsbench …",
            exit_code=ExitCode.UNSUPPORTED,
        )
    # The result is held against these tables at its end: a damaged one is passed over there without a word.
    if problems := data_problems():
        raise TgsError(problems[0], exit_code=ExitCode.BAD_PRESET)
    problem = machine_problem(preset, machine, num_local_ranks, emulated=emulated)
    if problem:
        raise TgsError(
            f"{preset.name} does not fit this machine: {problem}",
            hint=alternatives(preset),
            exit_code=ExitCode.DOES_NOT_FIT,
        )
    check_packages(preset)
    check_data(preset)


def check_data(preset: Preset) -> Data | None:
    """What small data of the user's own are packed to; None for larger ones, and for those that are shipped.

    Raises TgsError (exit code 5 or 6) when data or tokenizer cannot be trained on.
    """
    if not data_names.is_own(preset.workload):
        return None
    from tgsbench.workload import first_look  # with NumPy, which few launches need

    return first_look.check(preset)


def data_words(preset: Preset) -> str:
    """Documents, tokens and packs of small data of the user's own beside what the run takes; else empty.

    No hub is asked: a plan or a form is read without it. Raises TgsError as `check_data` does.
    """
    data = check_data(preset) if data_names.is_here(preset.workload) else None
    if data is None:
        return ""
    num_packs = counted(data.num_full + data.num_short, "pack")
    taken = (preset.measure.warmup + preset.measure.steps) * preset.packs_per_step
    return (
        f"{counted(data.num_documents, 'document')} of {data.num_tokens:,} tokens make {num_packs} of "
        f"{length(preset.workload.seq_len)}, and the run takes {taken:,}"
    )


def check_emulation(preset: Preset, on_several: bool) -> None:
    """Raise TgsError (exit code 2, 3 or 13) when no rank of this preset can be emulated."""
    if on_several:
        raise TgsError(
            "--emulate-rank runs one process on one machine", hint="leave --nodes and --node-rank out"
        )
    if preset.profile:
        raise TgsError(
            f"--emulate-rank captures no trace, and profile={preset.profile!r} asks for one",
            hint="leave --profile out, or --set profile=",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.engine.name != fsdp2.ENGINE.name:
        raise TgsError(
            f"--emulate-rank runs the {fsdp2.ENGINE.name} engine only, not {preset.engine.name!r}",
            hint=f"--engine {fsdp2.ENGINE.name}",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.parallel.ep > 1 and preset.training.routing != "uniform":
        raise TgsError(
            "an emulated rank is alone, and how many tokens come to its experts is the other routers' choice",
            hint="--set training.routing=uniform deals tokens in turn, or --set parallel.ep=1",
            exit_code=ExitCode.UNSUPPORTED,
        )
    if preset.model.num_layers < 2:
        raise TgsError(
            "a rank is emulated at two depths, so that a layer's cost separates from the rest; "
            f"{preset.name} has one layer",
            hint="--set model.num_layers=2",
            exit_code=ExitCode.DOES_NOT_FIT,
        )


def check_packages(preset: Preset) -> None:
    """Raise TgsError when a package that the engine needs is not installed."""
    name = preset.engine.name
    if preset.is_external:
        environments.require(name)
    missing = availability.missing_packages(name)
    if missing:
        raise TgsError(
            f"engine {name} needs {', '.join(package.module for package in missing)}",
            hint=availability.install_command(missing),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )


def machine_problem(
    preset: Preset, machine: LocalMachine, num_local_ranks: int, *, emulated: bool = False
) -> str:
    """What is needed and what is there, or an empty string when the ranks can start."""
    if preset.hardware.device == "cuda":
        problem = _gpu_problem(preset, machine, num_local_ranks)
        return problem or ("" if emulated else _gpu_memory_problem(preset, machine))
    return _cpu_problem(preset, machine, num_local_ranks)


def alternatives(preset: Preset) -> str:
    """Commands that work on any machine."""
    return (
        f"tgsbench run --preset {preset.name} --rehearse --headless   (the same shape, shrunken)\n"
        f"       tgsbench plan --preset {preset.name}   (what it would need and how fast it would be)"
    )


def _gpu_problem(preset: Preset, machine: LocalMachine, num_local_ranks: int) -> str:
    there = len(machine.gpus)
    if there >= num_local_ranks:
        return ""
    kind = f" {preset.hardware.gpu}" if preset.hardware.gpu else ""
    names = sorted({gpu.name for gpu in machine.gpus if gpu.name})
    found = f"{there} ({', '.join(names)})" if names else str(there or "none")
    nodes = -(-preset.world_size // preset.hardware.gpus_per_node)
    across = f" on {nodes} nodes" if nodes > 1 and num_local_ranks == preset.world_size else ""
    what = "GPU" if num_local_ranks == 1 else "GPUs"
    return f"it needs {num_local_ranks} {what}{kind}{across}, here are {found}"


def _gpu_memory_problem(preset: Preset, machine: LocalMachine) -> str:
    """Only what cannot be: whether the activations fit too is a forecast, and a run may prove it wrong."""
    known = [gpu.memory_gib for gpu in machine.gpus if gpu.memory_gib]
    if preset.is_external or not known:
        return ""
    try:
        need = states_bytes(preset)
    except TgsError:  # an engine of a plug-in, whose costs nobody has described
        return ""
    if need <= min(known) * GIB:
        return ""
    card = gib(min(known) * GIB)
    return f"weights and optimizer states alone need {gib(need)} on each GPU, the smallest here has {card}"


def _cpu_problem(preset: Preset, machine: LocalMachine, num_local_ranks: int) -> str:
    """Weights, gradients and two optimizer states in fp32, plus 0.7 GB of libraries a rank."""
    share = num_local_ranks / preset.world_size
    need = 16 * num_parameters(preset.model) * share + num_local_ranks * 0.7 * GIB
    if need <= machine.memory_bytes:
        return ""
    free = gib(machine.memory_bytes)
    return f"it needs {gib(need)} of memory for {num_local_ranks} CPU ranks, {free} are free"
