"""Speeds of attention kernels by GPU family and head dimension, from published figures.

benchmarks/data/attention_kernels.csv has the figures and their sources.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from benchmarks.planner_rows import KERNELS
from tgsbench.planner.least_squares import solve
from tgsbench.schema.hardware import AttentionSpeed

Kernels = dict[str, list[AttentionSpeed]]


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
            backward, note = _published_backward(raw, impl, d, half_len)
            hopper.append(_speed(kernel, d, asymptote, backward or asymptote / hopper_ratio, half_len, note))
    return {"ampere": ampere, "hopper": hopper}


def _published_backward(
    raw: list[dict[str, str]], impl: str, head_dim: int, half_len: float
) -> tuple[float | None, str]:
    """Asymptote of a kernel's backward from its figure at one length (not causal), or None and why."""
    for row in raw:
        if (row["impl"], row["pass"], row["head_dim"]) == (impl, "bwd", str(head_dim)):
            seq_len, tflops = float(row["seq_len"]), float(row["tflops_per_gpu"])
            return tflops * (1 + half_len / seq_len), f"; backward by its figure at {seq_len:.0f}, not causal"
    return None, "; backward by FA2's ratio on this GPU, no figure published"


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
