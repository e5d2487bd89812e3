"""The report of `gpu_check` as lines: figures beside targets and published ones."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
PUBLISHED = Path(__file__).parent / "data" / "attention_kernels.csv"
_NAMES = {"flash2": "FA2", "flash3": "FA3", "cudnn": "cuDNN", "sdpa": "FA2"}
"""Our kernels -> implementations of the published table (torch's SDPA flash is FA2)."""


def lines(report: Json) -> Iterator[str]:
    """Everything for people to read."""
    machine = report["machine"]
    yield f"{machine['gpu'] or 'CPU (tiny sizes, figures mean nothing)'}, torch {machine['torch']}"
    for name, found in report["sections"].items():
        if "error" in found:
            yield f"\n{name}: FAILED\n{found['error']}"
        elif "skipped" in found:
            yield f"\n{name}: not run: {found['skipped']}"
        else:
            yield f"\n{name} ({found.get('total_s', 0):.0f} s)"
            written = (f"  {line}" for line in _WRITERS[name](found))
            yield from (
                (re.sub(r" *\(to reach.*?\)", "", line) for line in written) if report["tiny"] else written
            )


def _gemm(found: Json) -> Iterator[str]:
    for name, tflops in found["tflops"].items():
        yield f"bf16 {name:8} {tflops:7.1f} TFLOPs"


def _attention(found: Json) -> Iterator[str]:
    published = best_published()
    yield "  length heads kernel   forward backward   published forward (H100, hd 128 causal, up to 16k)"
    for row in found["rows"]:
        head = f"{row['seq_len']:>8} {row['heads']:>5} {row['kernel']:7}"
        if "error" in row:
            yield f"{head} {row['error'][:90]}"
            continue
        beside = published.get(_NAMES.get(row["kernel"], ""))
        yield (
            f"{head} {row['forward_tflops']:8.0f} {row['backward_tflops']:8.0f}"
            + (f" {beside:10.0f}" if beside else "")
        )


def best_published() -> dict[str, float]:
    """Implementation -> best published forward on an H100, head dim 128, causal."""
    best: dict[str, float] = {}
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            wanted = row["gpu"].startswith("H100") and row["pass"] == "fwd" and row["causal"] == "yes"
            if wanted and row["head_dim"] == "128" and row["tflops_per_gpu"]:
                best[row["impl"]] = max(best.get(row["impl"], 0.0), float(row["tflops_per_gpu"]))
    return best


_MFU_TARGETS = {"llama2_7b_4l_32k": 0.50, "llama2_7b_4l_128k": 0.45}


def _train(found: Json) -> Iterator[str]:
    for row in found["rows"]:
        mfu = row["mfu"]
        text = f"{row['preset']:18} {row['checkpointing']:9} TGS {row['tgs']:9.1f}"
        if mfu is not None:
            text += f"  MFU {100 * mfu:5.1f} %" + _target(mfu, _MFU_TARGETS.get(row["preset"]), percent=True)
        yield text + f"  peak {row['peak_gib']:.2f} GiB" + _planned(row)
        yield f"  {row['kernel']}: {row['kernel_reason']}"
        if row["shares"]:
            yield "  " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in row["shares"].items())


def _planned(row: Json) -> str:
    planned = row.get("planned_gib")
    if not planned or not row["peak_gib"]:
        return ""
    off = row["peak_gib"] / planned - 1
    return f" (planned {planned:.2f}, {100 * off:+.1f} %; to reach: within 5 %)"


def _selective(found: Json) -> Iterator[str]:
    yield f"attention saved / everything recomputed at 128k: {found['ratio']:.3f}" + _target(
        found["ratio"], 1.15
    )


def _emulate(found: Json) -> Iterator[str]:
    for row in found["rows"]:
        emulated, published = row["emulated"], row["published"]
        text = (
            f"{row['preset']:15} layer {emulated['layer_s']:.3f} s, computed {emulated['compute_s']:.1f} s, "
            f"communication {emulated['communication_s']:.1f} s (modelled): "
            f"TGS {emulated['tgs']:.1f} ({emulated['tgs_low']:.1f} to {emulated['tgs_high']:.1f})"
        )
        if published and "scaled_tgs" in published:
            text += (
                f"; published {published['tgs']} on {published['gpu']}, scaled {published['scaled_tgs']:.1f}"
            )
        yield text
        if emulated["mem_projected_gib"] is not None:
            planned = emulated["mem_planned_gib"]
            yield f"  memory {emulated['mem_projected_gib']:.2f} GiB projected, planned {planned}"
        yield from (f"  problem: {problem}" for problem in emulated["problems"])


def _overhead(found: Json) -> Iterator[str]:
    yield "live events: " + _ratio(found["events"]) + "  (to reach: at most 1.005)"
    for name, item in found["recipes"].items():
        bound = "  (to reach: at most 1.05, profiled steps only)" if name == "hotspots" else ""
        yield f"recipe {name}: " + _ratio(item) + bound
    if not found["recipes"]:
        yield "no recipes in profiles/"


def _ratio(item: Json) -> str:
    return f"{item['ratio']:.4f} of a plain step ({item['low']:.4f} to {item['high']:.4f}, n = {item['n']})"


def _long(found: Json) -> Iterator[str]:
    for row in found["rows"]:
        yield (
            f"{row['preset']:18} peak {row['peak_gib']:.2f} GiB"
            + _planned(row)
            + f", {row['step_s'][0]:.1f} s"
        )


def _peers(found: Json) -> Iterator[str]:
    for name, item in found.items():
        if isinstance(item, dict):
            yield f"tgsbench / {name}: " + (f"{item['ratio']:.2f}" if "ratio" in item else item["skipped"])


def _tests(found: Json) -> Iterator[str]:
    yield ", ".join(f"{count} {word}" for word, count in found["counts"].items())


def _target(value: float, target: float | None, percent: bool = False) -> str:
    if target is None:
        return ""
    shown = f"{100 * target:.0f} %" if percent else f"{target}"
    return f" (to reach: {shown}: {'reached' if value >= target else 'NOT reached'})"


_WRITERS = {
    "gemm": _gemm,
    "attention": _attention,
    "train": _train,
    "selective": _selective,
    "emulate": _emulate,
    "overhead": _overhead,
    "long": _long,
    "peers": _peers,
    "tests": _tests,
}
