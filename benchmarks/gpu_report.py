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
        if "skipped" in found:
            yield f"\n{name}: not run: {found['skipped']}"
            continue
        yield f"\n{name}" + (": FAILED" if "error" in found else f" ({found.get('total_s', 0):.0f} s)")
        written = (f"  {line}" for line in _section(name, found))
        yield from (
            (re.sub(r" *\(to reach.*?\)", "", line) for line in written) if report["tiny"] else written
        )


def _section(name: str, found: Json) -> Iterator[str]:
    """What a section found, and what ended it early."""
    if found.keys() - {"error", "total_s"}:
        yield from _WRITERS[name](found)
    if "error" in found:
        yield from found["error"].splitlines()


def _gemm(found: Json) -> Iterator[str]:
    for name, tflops in found["tflops"].items():
        yield f"bf16 {name:8} {tflops:7.1f} TFLOPs"


def _attention(found: Json) -> Iterator[str]:
    yield "TFLOPs; in brackets: published on an H100 (hd 128, causal) at the same length or the longest, 16k"
    yield "  length  heads kernel      forward    backward        both"
    for row in found["rows"]:
        heads = f"{row['heads']}/{row['kv_heads']}"
        head = f"{row['seq_len']:>8} {heads:>6} {row['kernel']:7}"
        if "error" in row:
            yield f"{head} {row['error'][:90]}"
            continue
        cells = (_beside_published(row, name) for name in ("forward", "backward", "both"))
        yield head + "".join(cells)


_PASSES = {"forward": "fwd", "both": "fwd+bwd"}
"""The published table has no backward alone of these kernels."""


def _beside_published(row: Json, which: str) -> str:
    theirs = published(_NAMES.get(row["kernel"], ""), _PASSES.get(which, ""), row["seq_len"])
    return f" {row[f'{which}_tflops']:6.0f} " + (f"{f'({theirs:.0f})':4}" if theirs else " " * 4)


def published(impl: str, which: str, seq_len: int) -> float | None:
    """TFLOPs on an H100, head dim 128, causal, at this length or the longest below it; None: no such row."""
    found = {length: tflops for length, tflops in _published_rows(impl, which) if length <= seq_len}
    return found[max(found)] if found else None


def _published_rows(impl: str, which: str) -> Iterator[tuple[int, float]]:
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            same = (row["impl"], row["pass"], row["causal"], row["head_dim"]) == (impl, which, "yes", "128")
            if same and row["gpu"].startswith("H100") and row["tflops_per_gpu"] and row["seq_len"]:
                yield int(row["seq_len"]), float(row["tflops_per_gpu"])


_MFU_TARGETS = {"llama2_7b_4l_32k": 0.50, "llama2_7b_4l_128k": 0.45}


def _mfu(found: Json) -> Iterator[str]:
    """Every variant, and of each preset the best beside what is to be reached."""
    for name in dict.fromkeys(row["preset"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["preset"] == name]
        for row in rows:
            yield f"{row['variant']:9} " + (_failed(row) if "error" in row else _speed(row))
        reached = [row["mfu"] for row in rows if row.get("mfu") is not None]
        if reached:
            best = max(reached)
            yield f"{name}: best model MFU {100 * best:.1f} %" + _target(
                best, _MFU_TARGETS[name], percent=True
            )


def _train(found: Json) -> Iterator[str]:
    for row in found["rows"]:
        if "error" in row:
            yield _failed(row)
            continue
        yield _speed(row) + _planned(row)
        yield f"  {row['kernel']}: {row['kernel_reason']}"
        yield "  " + _shares(row["shares"])


def _speed(row: Json) -> str:
    mfu = "" if row["mfu"] is None else f"  MFU {100 * row['mfu']:5.1f} %"
    head = f"{row['preset']:18} {row['checkpointing']:9} TGS {row['tgs']:9.1f}{mfu}"
    return f"{head}  peak {row['peak_gib']:.2f} GiB"


def _failed(row: Json) -> str:
    return f"{row['preset']:18} FAILED: {row['error']}"


def _shares(shares: Json) -> str:
    if "error" in shares:
        return f"no shares: {shares['error']}"
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())


def _planned(row: Json) -> str:
    planned = row.get("planned_gib")
    if not planned or not row["peak_gib"]:
        return ""
    off = row["peak_gib"] / planned - 1
    return f" (planned {planned:.2f}, {100 * off:+.1f} %; to reach: within 5 %)"


def _emulate(found: Json) -> Iterator[str]:
    for row in found["rows"]:
        if "error" in row:
            yield _failed(row)
            continue
        emulated, reference = row["emulated"], row["published"]
        text = (
            f"{row['preset']:15} layer {emulated['layer_s']:.3f} s, computed {emulated['compute_s']:.1f} s, "
            f"communication {emulated['communication_s']:.1f} s (modelled): "
            f"TGS {emulated['tgs']:.1f} ({emulated['tgs_low']:.1f} to {emulated['tgs_high']:.1f})"
        )
        if reference and "scaled_tgs" in reference:
            text += (
                f"; published {reference['tgs']} on {reference['gpu']}, scaled {reference['scaled_tgs']:.1f}"
            )
        yield text
        if emulated["mem_projected_gib"] is not None:
            planned = emulated["mem_planned_gib"]
            off = f" ({100 * (emulated['mem_projected_gib'] / planned - 1):+.1f} %)" if planned else ""
            beside = f", planned {planned:.2f} GiB{off}" if planned else ""
            yield f"  memory {emulated['mem_projected_gib']:.2f} GiB projected{beside}"
        yield from (f"  problem: {problem}" for problem in emulated["problems"])


def _overhead(found: Json) -> Iterator[str]:
    yield "live events: " + _ratio(found["events"]) + "  (to reach: at most 1.005)"
    for name, item in found["recipes"].items():
        bound = "  (to reach: at most 1.05, profiled steps only)" if name == "hotspots" else ""
        yield f"recipe {name}: " + _ratio(item) + bound


def _ratio(item: Json) -> str:
    if "error" in item:
        return item["error"]
    return f"{item['ratio']:.4f} of a plain step ({item['low']:.4f} to {item['high']:.4f}, n = {item['n']})"


def _peers(found: Json) -> Iterator[str]:
    for name, tgs in found["tgs"].items():
        if tgs:
            yield f"{name:14} TGS {', '.join(f'{one:.0f}' for one in tgs)}"
    for name, ratio in found["ratios"].items():
        yield f"tgsbench / {name}: {ratio:.2f}"
    yield from (f"{name}: {why}" for name, why in found["left_out"].items())


def _tests(found: Json) -> Iterator[str]:
    yield ", ".join(f"{count} {word}" for word, count in found["counts"].items())
    yield from (f"failed: {name}" for name in found["failed"])


def _target(value: float, target: float | None, percent: bool = False) -> str:
    if target is None:
        return ""
    shown = f"{100 * target:.0f} %" if percent else f"{target}"
    return f" (to reach: {shown}: {'reached' if value >= target else 'NOT reached'})"


_WRITERS = {
    "gemm": _gemm,
    "attention": _attention,
    "mfu": _mfu,
    "train": _train,
    "emulate": _emulate,
    "overhead": _overhead,
    "peers": _peers,
    "tests": _tests,
}
