"""Fit hardware constants on this machine's own runs, and write them where every plan finds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.metrics import figures
from tgsbench.planner.least_squares import fit
from tgsbench.planner.machine import Machine
from tgsbench.planner.time import step_time
from tgsbench.planner.workload import StepWorkload
from tgsbench.schema.hardware import AttentionSpeed, Constants, Link, Spread

UNCALIBRATED_CPU = Constants(
    name="cpu",
    gpus=["cpu"],
    gemm_share=0.05,
    stream_share=0.3,
    nvlink_share=0.2,
    network_share=0.5,
    gather_contention=1.0,
    straggler_share=0.0,
    launch_us=30.0,
    attention=[
        AttentionSpeed(
            kernel="sdpa",
            head_dim=64,
            forward_tflops=0.03,
            backward_tflops=0.03,
            half_len=64.0,
            source="guess",
        )
    ],
    error_share=0.5,
    fitted_on="nothing",
)
"""Where a CPU's fit starts; never used to predict."""


class Sample(Struct, frozen=True, kw_only=True):
    """One measured run."""

    label: str
    work: StepWorkload
    machine: Machine
    tgs: float
    disturbed: bool = False
    """Something else used the machine, or steps differ widely: the run counts a quarter."""


class Calibration(Struct, frozen=True):
    """Fitted constants and what is known of their error."""

    constants: Constants
    errors: dict[str, float]
    """Per run, predicted over measured TGS less one, by constants fitted on the other runs; with a single
    run by the constants that it started from."""
    moved: dict[str, float] = {}
    """Constants that the runs determine -> fitted value over the one it started from."""
    guesses: list[str] = []
    """Constants that the runs do not determine: still those it started from."""
    disturbed: list[str] = []
    """Runs that count a quarter, for something else used the machine or their steps differ widely."""


_SIGMA_GPU = {
    "gemm": 0.06,
    "attention": 0.03,
    "stream": 0.02,
    "inside": 0.1,
    "across": 0.3,
    "launch": 0.1,
    "step": 0.3,
}
"""Of a GPU whose constants were measured. Runs scatter 5 % around a plan where `fit` takes 2 %, so stacks
that differ by 0.15 in their products have 0.06 here. Six rows of a stack then leave 4.1 % on its others
(with `_SIGMA_CARRIED` 5.1 %; `python -m benchmarks.planner_few`)."""
_SIGMA_CARRIED = {
    "gemm": 0.3,
    "attention": 0.3,
    "stream": 0.2,
    "inside": 0.4,
    "across": 0.6,
    "launch": 0.3,
    "step": 2.0,
}
"""Of a GPU whose constants were scaled from another's."""
_SIGMA_CPU = {
    "gemm": 3.0,
    "attention": 3.0,
    "stream": 1.0,
    "inside": 2.0,
    "across": 0.5,
    "launch": 1.0,
    "step": 1.0,
}
"""How far, in e-folds, runs may pull each constant from where it starts."""


def calibrate(samples: Sequence[Sample], start: Constants | None, name: str) -> Calibration:
    """Fit seven constants on runs of one GPU model; few runs move only what they determine.

    The start (shipped constants) is the prior, so one run scales what dominates it and leaves the rest.
    Raises TgsError without samples, or when they come from different GPU models.
    """
    _check(samples)
    base = start or UNCALIBRATED_CPU
    sigma = _sigma(samples[0].machine, base)
    values = _fitted(samples, base, sigma)
    errors = _left_out(samples, base, sigma)
    known = _determined(samples, _scaled(base, values))
    names = list(sigma)
    return Calibration(
        _stored(_scaled(base, values), name, samples, errors),
        {sample.label: error for sample, error in zip(samples, errors, strict=True)},
        {n: value for n, value in zip(names, values, strict=True) if n in known},
        [n for n in names if n not in known],
        [sample.label for sample in samples if sample.disturbed],
    )


def _sigma(machine: Machine, base: Constants) -> dict[str, float]:
    if machine.gpu.name == "cpu":
        return _SIGMA_CPU
    return _SIGMA_CARRIED if base.carried_over else _SIGMA_GPU


def _fitted(samples: Sequence[Sample], base: Constants, sigma: dict[str, float]) -> list[float]:
    """Factor of each constant that fits the runs best, held by where it starts."""

    def residuals(values: list[float]) -> list[float]:
        tried = _scaled(base, values)
        return [_weight(sample) * _residual(sample, tried) for sample in samples]

    return fit(residuals, [1.0] * len(sigma), list(sigma.values())).values


def _weight(sample: Sample) -> float:
    return 0.25 if sample.disturbed else 1.0


def _residual(sample: Sample, tried: Constants) -> float:
    return math.log(_estimated_tgs(sample, tried) / sample.tgs)


def _left_out(samples: Sequence[Sample], base: Constants, sigma: dict[str, float]) -> list[float]:
    """Error of each run by constants fitted on the others: what an equal run to come may show."""
    errors = []
    for index, sample in enumerate(samples):
        others = [*samples[:index], *samples[index + 1 :]]
        found = _scaled(base, _fitted(others, base, sigma)) if others else base
        errors.append(math.expm1(_residual(sample, found)))
    return errors


def _determined(samples: Sequence[Sample], found: Constants) -> set[str]:
    """Constants of which a tenth more or less would change some run by half a per cent."""
    names = list(_SIGMA_GPU)
    known = set()
    for index, name in enumerate(names):
        tried = _scaled(found, [1.1 if i == index else 1.0 for i in range(len(names))])
        if any(abs(_residual(s, tried) - _residual(s, found)) > 0.005 for s in samples):
            known.add(name)
    return known


def _check(samples: Sequence[Sample]) -> None:
    if not samples:
        raise TgsError("no finished run to calibrate on", hint="tgsbench runs", exit_code=ExitCode.STORE)
    gpus = sorted({sample.machine.gpu.name for sample in samples})
    if len(gpus) > 1:
        raise TgsError(
            f"runs of different GPUs ({', '.join(gpus)}): constants belong to one GPU model",
            hint="calibrate on the runs of each GPU alone",
            exit_code=ExitCode.NOT_COMPARABLE,
        )


def _estimated_tgs(sample: Sample, constants: Constants) -> float:
    work = replace(sample.work, kernel=_known_kernel(constants, sample.work.kernel))
    machine = Machine(sample.machine.gpu, sample.machine.link, constants)
    step_s = step_time(work, machine).step_s
    return figures.tgs_of_gpu(work.tokens_per_gpu, step_s)


def _known_kernel(constants: Constants, kernel: str) -> str:
    names = [speed.kernel for speed in constants.attention]
    return kernel if kernel in names else names[0]


def _scaled(base: Constants, values: list[float]) -> Constants:
    gemm, attention, stream, inside, across, launch, step = values
    return replace(
        base,
        gemm_share=base.gemm_share * gemm,
        stream_share=base.stream_share * stream,
        nvlink_share=base.nvlink_share * inside,
        network_share=base.network_share * across,
        launch_us=base.launch_us * launch,
        step_overhead_factor=base.step_overhead_factor * step,
        attention=[
            replace(
                speed,
                forward_tflops=speed.forward_tflops * attention,
                backward_tflops=speed.backward_tflops * attention,
            )
            for speed in base.attention
        ],
    )


_T90 = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440)
"""90th percentile of Student's t with 1 to 6 degrees of freedom."""
_LEAST_SPREAD, _ONE_RUN = 0.03, 0.2
_MEAN_TO_SIGMA = math.sqrt(math.pi / 2)
"""Standard deviation over mean |error| of a normal distribution; squares let one run decide the width."""
_OTHERS, _OTHERS_OFF = 2, 0.03
"""On a GPU whose constants were measured, runs are taken to scatter as rows of known stacks do, which counts
as two runs. From 2 to 6 published rows the interval then holds 79 to 95 % of a stack's other rows and is
±5 to 13 % wide from two (±10 to 36 % without; `python -m benchmarks.planner_few`)."""


def error_of(errors: Sequence[float], weights: Sequence[float], *, gpu_known: bool = False) -> float:
    """Half-width of an 80 % interval from errors of runs left out; few runs know little of it."""
    n = len(errors)
    if n == 1:
        return max(_ONE_RUN, abs(errors[0]) / 2)
    others = _OTHERS if gpu_known else 0
    off = sum(w * abs(e) for w, e in zip(weights, errors, strict=True)) + others * _OTHERS_OFF
    quantile = _T90[min(n - 1 + others, len(_T90)) - 1]
    return max(_LEAST_SPREAD, quantile * _MEAN_TO_SIGMA * off / (sum(weights) + others))


def _stored(found: Constants, name: str, samples: Sequence[Sample], errors: Sequence[float]) -> Constants:
    sizes = [abs(error) for error in errors]
    runs = ", ".join(sample.label for sample in samples)
    measured = samples[0].machine.gpu.name != "cpu" and not found.carried_over
    share = min(0.9, error_of(errors, [_weight(sample) for sample in samples], gpu_known=measured))
    here = Spread(round(share, 4), round(share, 4))
    return replace(
        found,
        name=name,
        gpus=[samples[0].machine.gpu.name],
        carried_over="",
        stacks=sorted({sample.work.system.name for sample in samples}),
        error_share=share,
        spreads={known: _wider(spread, here) for known, spread in found.spreads.items()}
        | {"stack and GPU": here},
        fitted_on=f"{len(samples)} runs of this machine: {runs}",
        residuals={"left_out_mean": sum(sizes) / len(sizes), "left_out_worst": max(sizes)},
        sources=dict.fromkeys(
            (
                "gemm_share",
                "attention",
                "stream_share",
                "nvlink_share",
                "network_share",
                "launch_us",
                "step_overhead",
            ),
            f"fitted on {runs}",
        ),
    )


def _wider(one: Spread, other: Spread) -> Spread:
    return Spread(max(one.below, other.below), max(one.above, other.above))


def constants_toml(constants: Constants) -> str:
    """Constants as a TOML file of presets/constants."""
    return _toml(msgspec.to_builtins(constants))


def link_toml(link: Link) -> str:
    """A link as a TOML file of presets/links."""
    return _toml({key: value for key, value in msgspec.to_builtins(link).items() if value not in (None, "")})


def _toml(document: dict[str, Any]) -> str:
    """TOML with floats at six significant digits: a fit knows no more."""
    import tomli_w  # here, for plans write none

    shown: str = tomli_w.dumps(_rounded({k: v for k, v in document.items() if v != {}}))
    return shown


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
