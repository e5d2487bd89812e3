"""Stored runs of this machine as samples that constants can be fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner.calibrate import Calibration, Sample, calibrate, constants_toml
from tgsbench.planner.machine import CPU, Machine, find_constants, find_link, unknown_gpu
from tgsbench.planner.plan import pick_kernel
from tgsbench.planner.workload import work_of
from tgsbench.presets import catalog
from tgsbench.results import results
from tgsbench.schema.run import Result
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.system.config import config_dir


def calibrate_on(samples: Sequence[Sample]) -> tuple[Calibration, Path]:
    """Fit constants on runs or imported rows and store them where every later plan finds them; returns both.

    Raises TgsError without samples, and for samples of different GPUs.
    """
    if not samples:
        raise TgsError("name at least one run", hint="tgsbench plan --calibrate latest")
    gpu = samples[0].machine.gpu.name
    found = calibrate(samples, samples[0].machine.constants, name=gpu)
    path = config_dir() / "presets" / "constants" / f"{gpu}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        run_dir.write_atomic(path, constants_toml(found.constants).encode())
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error
    return found, path


def sample(run: RunDir) -> Sample:
    """One finished run as a sample.

    Raises TgsError when the run did not end well.
    """
    result, preset = results.load_result(run), run.preset()
    if result.status != "ok" or result.tgs.median is None:
        raise TgsError(
            f"{run.run_id} is {result.status}: constants are fitted on runs that ended well",
            hint="tgsbench runs",
            exit_code=ExitCode.STORE,
        )
    machine = _machine(result, preset.hardware.link)
    kernel = result.attention.partition("/")[2] or pick_kernel(preset, machine.constants)
    return Sample(
        label=run.run_id,
        work=work_of(preset, kernel, on_cpu=machine.gpu.name == CPU.name),
        machine=machine,
        tgs=result.tgs.median,
        disturbed=bool(result.disturbances),
    )


def _machine(result: Result, link: str) -> Machine:
    gpu = CPU if result.device == "cpu" else catalog.find_gpu(result.device)
    if gpu is None:
        raise unknown_gpu(result.device)
    return Machine(gpu, find_link(link, gpu), find_constants(gpu.name))
