"""Fits the planner's shipped constants and writes them to presets/constants and presets/links.

`python -m benchmarks.planner_fit [--write]`. Attention speeds come from attention_kernels.csv, everything
else from calibration.csv; the link of the reference cluster from two of its rows. With five hardware
constants and three of the calibration rows' own stack on 108 rows, nothing here knows a model by name.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.planner_rows import CALIBRATION, KERNELS, XTUNER, Row, link_rows, read_rows
from tgsbench.metrics.figures import tgs_of_gpu
from tgsbench.planner.calibrate import constants_toml, link_toml
from tgsbench.planner.least_squares import fit, solve
from tgsbench.planner.machine import Machine
from tgsbench.planner.time import step_time
from tgsbench.presets import catalog
from tgsbench.schema.hardware import AttentionSpeed, Constants, GpuSpec, Link
from tgsbench.systems.costs import LLM_FOUNDRY, ElementwiseTraffic, System

PRESETS = Path(__file__).resolve().parents[1] / "presets"
FAMILIES = {"ampere": ("A100-SXM4-80GB", "A100-SXM4-40GB"), "hopper": ("H100-SXM5-80GB",)}
"""Constants files that are measured, and the GPUs they hold for."""
LINK_ROWS = link_rows()
"""Constant of the reference cluster's unpublished network -> the one row that it may be fitted on."""
STREAM_SHARE, NVLINK_SHARE, NETWORK_SHARE = 0.85, 0.8, 0.85
FASTEST_GB_PER_S = 500.0
"""Rates are searched up to here, beyond any network of today: a row that needs it is explained by none."""
SOURCES = {
    "gemm_share": "fitted on benchmarks/data/calibration.csv",
    "fp8_gain": "fitted on the 4 FP8 rows of benchmarks/data/calibration.csv",
    "gather_contention": "fitted on benchmarks/data/calibration.csv",
    "straggler_share": "fitted on benchmarks/data/calibration.csv (8 to 512 GPUs)",
    "stream_share": "assumed: stream benchmarks reach 0.85 to 0.9 of the datasheet's bandwidth",
    "nvlink_share": "assumed: nccl-tests' bus bandwidth of large collectives, 230 to 240 of 300 GB/s on A100",
    "network_share": "assumed: what large RDMA transfers reach of the cards' line rate",
    "launch_us": "assumed: eager PyTorch takes 4 to 8 µs a launch",
    "attention": "benchmarks/data/attention_kernels.csv",
}


COUNTED_TRAFFIC = ElementwiseTraffic(hidden=(20.0, 24.0), rotary=(0.0, 0.0), mlp=(8.0, 12.0))
"""Of the calibration rows' stack by its kernels' operands; what it really moves is fitted as a multiple."""


class Parameters(Struct, frozen=True, kw_only=True):
    """What the calibration rows determine: hardware first, then their stack."""

    gemm_share_ampere: float = 0.85
    gemm_share_hopper: float = 0.75
    fp8_gain: float = 1.7
    gather_contention: float = 1.5
    straggler_share: float = 0.012
    stack_traffic: float = 1.5
    stack_logits: float = 18.0
    stack_attention: float = 0.55


NAMES = Parameters.__struct_fields__


def family(gpu: GpuSpec) -> str:
    """Constants family of a GPU of the calibration rows."""
    return next(name for name, gpus in FAMILIES.items() if gpu.name in gpus)


def stack(parameters: Parameters) -> System:
    """The calibration rows' stack with its fitted element-wise traffic and attention speed."""
    t, base = parameters.stack_traffic, COUNTED_TRAFFIC
    traffic = ElementwiseTraffic(
        hidden=(base.hidden[0] * t, base.hidden[1] * t),
        rotary=base.rotary,
        mlp=(base.mlp[0] * t, base.mlp[1] * t),
        logits=parameters.stack_logits,
    )
    return replace(LLM_FOUNDRY, traffic=traffic, attention_share=parameters.stack_attention)


def constants(name: str, parameters: Parameters, attention: list[AttentionSpeed]) -> Constants:
    """One family's constants."""
    return Constants(
        name=name,
        gpus=list(FAMILIES[name]),
        gemm_share=getattr(parameters, f"gemm_share_{name}"),
        stream_share=STREAM_SHARE,
        nvlink_share=NVLINK_SHARE,
        network_share=NETWORK_SHARE,
        gather_contention=parameters.gather_contention,
        straggler_share=parameters.straggler_share,
        fp8_gain=parameters.fp8_gain if name == "hopper" else 1.0,
        attention=attention,
        sources=SOURCES,
    )


def predicted_tgs(row: Row, found: Constants) -> float:
    """TGS of a row."""
    time = step_time(row.work, Machine(row.gpu, row.link, found))
    return tgs_of_gpu(row.work.tokens_per_gpu, time.step_s)


Kernels = dict[str, list[AttentionSpeed]]


def errors(rows: Sequence[Row], parameters: Parameters, kernels: Kernels) -> list[float]:
    """Predicted over published TGS, less one, of calibration rows."""
    system = stack(parameters)
    by_family = {name: constants(name, parameters, kernels[name]) for name in FAMILIES}
    out = []
    for row in rows:
        tgs = predicted_tgs(replace(row, work=replace(row.work, system=system)), by_family[family(row.gpu)])
        assert row.tgs is not None
        out.append(tgs / row.tgs - 1)
    return out


def fit_parameters(rows: Sequence[Row], kernels: Kernels) -> Parameters:
    """Fit on these rows; a family without rows takes the other's share of its GEMM ceiling."""
    present = {family(row.gpu) for row in rows}
    free = [n for n in NAMES if not (n.startswith("gemm_share_") and n[11:] not in present)]
    if not any(row.work.fp8 for row in rows):
        free.remove("fp8_gain")

    def residuals(values: list[float]) -> list[float]:
        tried = replace(Parameters(), **dict(zip(free, values, strict=True)))
        return [math.log1p(e) for e in errors(rows, tried, kernels)]

    start = Parameters()
    fitted = fit(residuals, [getattr(start, n) for n in free], [0.3] * len(free))
    found = replace(start, **dict(zip(free, fitted.values, strict=True)))
    for name in FAMILIES.keys() - present:
        other = next(iter(present))
        share = getattr(found, f"gemm_share_{other}") * _ceiling(name) / _ceiling(other)
        found = replace(found, **{f"gemm_share_{name}": share})
    return found


def _ceiling(name: str) -> float:
    """Best published product of a family over its peak."""
    gpu = catalog.load_gpus()[FAMILIES[name][0]]
    return gpu.gemm_ceiling_tflops / gpu.bf16_tflops


# Attention


def attention_speeds(path: Path = KERNELS) -> Kernels:
    """Asymptote and half-length of every kernel by family and head dimension, from the published figures."""
    with path.open(encoding="utf-8", newline="") as file:
        raw = list(csv.DictReader(file))
    curves = _curves(raw)
    ratio = _ampere_ratio(raw)
    total, _ = curves["ampere", "FA2", "fwd+bwd", 128]
    ampere = [
        _speed("flash2", d, *_split(asymptote, ratio), half_len)
        for d, (asymptote, half_len) in _of(curves, "ampere", "FA2", "fwd+bwd")
    ]
    forward, _ = curves["hopper", "FA2", "fwd", 128]
    total, _half = curves["hopper", "FA2", "fwd+bwd", 128]
    hopper_ratio = forward / _backward(total, forward)
    hopper = [
        _speed("flash2", d, *_split(asymptote, hopper_ratio), half_len)
        for d, (asymptote, half_len) in _of(curves, "hopper", "FA2", "fwd+bwd")
    ]
    for kernel, impl in (("flash3", "FA3"), ("cudnn", "cuDNN")):
        for d, (asymptote, half_len) in _of(curves, "hopper", impl, "fwd"):
            note = "; backward by FA2's ratio on this GPU, no figure published in the file"
            hopper.append(_speed(kernel, d, asymptote, asymptote / hopper_ratio, half_len, note))
    return {"ampere": ampere, "hopper": hopper}


Curves = dict[tuple[str, str, str, int], tuple[float, float]]


def _curves(raw: list[dict[str, str]]) -> Curves:
    """(family, kernel, pass, head dim) -> asymptote TFLOPs and half-length, causal rows of one GPU."""
    points: dict[tuple[str, str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in raw:
        if row["gpus"] == "1" and row["causal"] == "yes" and row["impl"] in ("FA2", "FA3", "cuDNN"):
            name = "ampere" if row["gpu"].startswith("A100") else "hopper"
            key = (name, row["impl"], row["pass"], int(row["head_dim"]))
            points[key].append((float(row["seq_len"]), float(row["tflops_per_gpu"])))
    return {key: _saturation(curve) for key, curve in points.items()}


def _of(curves: Curves, name: str, impl: str, passes: str) -> list[tuple[int, tuple[float, float]]]:
    return sorted((k[3], v) for k, v in curves.items() if k[:3] == (name, impl, passes))


def _saturation(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of y/A + y·h/(A·S) = 1: relative errors count alike at every length."""
    a = [(y, y / s) for s, y in points]
    normal = [[sum(r[i] * r[j] for r in a) for j in range(2)] for i in range(2)]
    inverse, slope = solve(normal, [sum(r[i] for r in a) for i in range(2)])
    return 1 / inverse, slope / inverse


def _backward(total: float, forward: float) -> float:
    """Backward TFLOPs when forward and backward together reach `total`: 3.5/t = 1/f + 2.5/b."""
    return 2.5 / (3.5 / total - 1 / forward)


def _split(total: float, ratio: float) -> tuple[float, float]:
    """Forward and backward TFLOPs of a known total and forward/backward ratio."""
    backward = total * (1 / ratio + 2.5) / 3.5
    return ratio * backward, backward


def _ampere_ratio(raw: list[dict[str, str]]) -> float:
    """Forward/backward speed of FA2 on an A100, from one table that has both passes."""
    rate = {
        row["pass"]: float(row["iters_per_s"])
        for row in raw
        if row["gpu"] == "A100" and row["impl"].startswith("flash_attn single")
    }
    forward_s, both_s = 1 / rate["batch fwd"], 1 / rate["batch fwd+bwd"]
    return (both_s - forward_s) / 2.5 / forward_s


def _speed(
    kernel: str, head_dim: int, forward: float, backward: float, half_len: float, note: str = ""
) -> AttentionSpeed:
    return AttentionSpeed(
        kernel=kernel,
        head_dim=head_dim,
        forward_tflops=round(forward, 1),
        backward_tflops=round(backward, 1),
        half_len=round(half_len),
        source=f"benchmarks/data/attention_kernels.csv, causal rows{note}",
    )


# The reference cluster's network


def fit_link(found: Constants, rows: Sequence[Row]) -> Link:
    """Gather and all-to-all rates that reproduce the two rows they may be fitted on."""
    link = Link(
        name="reference_a100",
        description="Network of the cluster behind the XTuner and LLaMA-Factory rows; never published",
        inter_node_gb_per_s=25.0,
        gather_gb_per_s=12.0,
        all_to_all_gb_per_s=1.5,
        fitted_on=" and ".join(LINK_ROWS.values()) + " of benchmarks/data/xtuner_speed_benchmark.csv",
        source="benchmarks/planner_fit.py; the card's figure is the datasheet default, and unknown here",
    )
    by_label = {row.label: row for row in rows}
    for _ in range(4):
        for constant, label in LINK_ROWS.items():
            link = solve_rate(link, constant, by_label[label], found)
    return link


def solve_rate(link: Link, key: str, row: Row, found: Constants) -> Link:
    """Bisect one rate so that the row comes out as published."""
    low, high = 0.05, FASTEST_GB_PER_S
    for _ in range(60):
        middle = math.sqrt(low * high)
        tried = replace(link, **{key: middle})
        assert row.tgs is not None
        faster = predicted_tgs(replace(row, link=tried), found) > row.tgs
        low, high = (low, middle) if faster else (middle, high)
    return replace(link, **{key: round(math.sqrt(low * high), 3)})


# Carrying over to GPUs without rows


def carried_over(found: Constants, name: str, gpus: list[str], why: str, error_share: float) -> Constants:
    """Constants for GPUs without published rows; attention scales with the GEMM ceiling, or the peak."""
    source, target = catalog.load_gpus()[found.gpus[0]], catalog.load_gpus()[gpus[0]]
    scale = (target.gemm_ceiling_tflops or target.bf16_tflops) / (
        source.gemm_ceiling_tflops if target.gemm_ceiling_tflops else source.bf16_tflops
    )
    share = found.gemm_share * scale * source.bf16_tflops / target.bf16_tflops
    attention = [
        replace(
            speed,
            forward_tflops=round(speed.forward_tflops * scale, 1),
            backward_tflops=round(speed.backward_tflops * scale, 1),
            source=f"{speed.source}; carried over from {source.name} times {scale:.3f}",
        )
        for speed in found.attention
    ]
    return replace(
        found,
        name=name,
        gpus=gpus,
        gemm_share=share,
        attention=attention,
        carried_over=why,
        error_share=error_share,
        residuals={},
    )


def main() -> None:
    """Fit, print, and with --write store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace presets/constants and presets/links")
    args = parser.parse_args()
    kernels = attention_speeds()
    rows, unplanned = read_rows(CALIBRATION)
    assert not unplanned, unplanned
    parameters = fit_parameters(rows, kernels)
    left_out = _left_out(rows, kernels)
    for name in NAMES:
        print(f"{name:<20} {getattr(parameters, name):8.4f}")
    files = _files(parameters, kernels, rows, left_out)
    print({name: found.residuals for name, found in files.items()})
    link = fit_link(files["ampere"], read_rows(XTUNER)[0])
    print(f"gather {link.gather_gb_per_s} GB/s, all-to-all {link.all_to_all_gb_per_s} GB/s")
    if args.write:
        for name, found in files.items():
            (PRESETS / "constants" / f"{name}.toml").write_text(constants_toml(found), "utf-8")
        (PRESETS / "links" / f"{link.name}.toml").write_text(link_toml(link), "utf-8")


def _left_out(rows: list[Row], kernels: Kernels) -> dict[str, list[float]]:
    return {
        "leave_one_gpu_out": leave_out(rows, kernels, lambda row: row.gpu.name),
        "leave_one_length_out": leave_out(rows, kernels, lambda row: row.work.seq_len),
    }


def leave_out(rows: Sequence[Row], kernels: Kernels, group) -> list[float]:
    """Errors of every row when its whole group was kept out of the fit, in the order of the rows."""
    found: dict[int, float] = {}
    for value in sorted({group(row) for row in rows}):
        inside = [i for i, row in enumerate(rows) if group(row) == value]
        parameters = fit_parameters([row for row in rows if group(row) != value], kernels)
        tested = errors([rows[i] for i in inside], parameters, kernels)
        found |= dict(zip(inside, tested, strict=True))
    return [found[i] for i in range(len(rows))]


def _files(
    parameters: Parameters, kernels: Kernels, rows: list[Row], left_out: dict[str, list[float]]
) -> dict[str, Constants]:
    files = {name: constants(name, parameters, kernels[name]) for name in FAMILIES}
    fitted = errors(rows, parameters, kernels)
    for name in FAMILIES:
        inside = [i for i, row in enumerate(rows) if family(row.gpu) == name]
        sets = {"fitted": fitted, **left_out}
        residuals = {}
        for key, values in sets.items():
            sizes = [abs(values[i]) for i in inside]
            residuals |= {f"{key}_mean": sum(sizes) / len(sizes), f"{key}_worst": max(sizes)}
        worst = sorted(max(abs(values[i]) for values in left_out.values()) for i in inside)
        share = worst[math.ceil(0.9 * len(worst)) - 1]
        text = f"{len(inside)} rows of benchmarks/data/calibration.csv"
        files[name] = replace(files[name], residuals=residuals, error_share=share, fitted_on=text)
    return files | _carried(files)


def _carried(files: dict[str, Constants]) -> dict[str, Constants]:
    ampere, hopper = files["ampere"], files["hopper"]
    return {
        "ampere_pcie": carried_over(
            ampere, "ampere_pcie", ["A100-PCIE-80GB"], "the SXM card's: no row of a PCIe card", 0.2
        ),
        "hopper_pcie": carried_over(
            hopper, "hopper_pcie", ["H100-PCIE-80GB"], "the SXM card's, by peak: no row of a PCIe card", 0.25
        ),
        "hopper_141gb": carried_over(
            hopper, "hopper_141gb", ["H200-SXM-141GB"], "H100's: the same chip with faster memory", 0.15
        ),
        "blackwell": carried_over(
            hopper, "blackwell", ["B200-SXM-180GB"], "H100's, by GEMM ceiling: no row of this GPU", 0.3
        ),
    }


if __name__ == "__main__":
    main()
