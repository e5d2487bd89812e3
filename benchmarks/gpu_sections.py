"""What `gpu_check` measures, one section a process: `python -m benchmarks.gpu_sections NAME`.

A section prints what it has found so far after every row, one JSON document a line: the last line counts,
also that of a section which was cut off. A row that fails is a row with an error. With --tiny every section
runs on a CPU at sizes of a test, to prove the code before a GPU is to be had; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from msgspec.structs import replace

from benchmarks.gpu_rank import (
    Measured,
    Rank,
    attempt,
    device_of,
    emulated_row,
    release,
    seconds_of,
    single_rank_group,
)
from tgsbench import presets
from tgsbench.schema.preset import Preset
from tgsbench.training.attention import kernels
from tgsbench.training.attention.kernel_timing import KernelShape

Json = dict[str, Any]


def gemm(tiny: bool) -> Iterator[Json]:
    """bf16 matrix products: the square that peaks, and one layer of Llama2-7B at 32k tokens; random data."""
    device = device_of(tiny)
    sizes = {"8192^3": (8192, 8192, 8192), "q": (32768, 4096, 4096), "up": (32768, 4096, 11008)}
    sizes["head"] = (8192, 4096, 32000)
    found = {}
    for name, (m, k, n) in sizes.items():
        m, k, n = (max(8, size // 256) if tiny else size for size in (m, k, n))
        a, b = (torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
        found[name] = 2 * m * k * n / _median_s(lambda a=a, b=b: a @ b, device, 20) / 1e12
        yield {"tflops": found}


def attention(tiny: bool) -> Iterator[Json]:
    """TFLOPs forward and backward by kernel, head dim 128, causal; backward counts 2.5 forwards (FA2)."""
    device = device_of(tiny)
    rows: list[Json] = []
    shapes = ((128, 2, 2),) if tiny else ((8192, 32, 32), (32768, 16, 16), (131072, 4, 4), (131072, 8, 1))
    for seq_len, heads, kv_heads in shapes:
        probe = KernelShape(seq_len, heads, kv_heads, 128)
        for name in ("sdpa",) if tiny else ("cudnn", "sdpa", "varlen", "flash3", "flash2", "flash4"):
            found = attempt(lambda name=name, probe=probe: _kernel_row(name, probe, device))
            rows.append({"seq_len": seq_len, "heads": heads, "kv_heads": kv_heads, "kernel": name} | found)
            yield {"rows": rows}


def _kernel_row(name: str, probe: KernelShape, device: torch.device) -> Json:
    kernel = kernels.make(name, device)
    *inputs, grad = probe.tensors(device)
    forward_flops = 4 * probe.seq_len**2 * probe.head_dim * probe.num_query_heads / 2

    def forward() -> torch.Tensor:
        return kernel.run(*inputs, probe.head_dim**-0.5, None)

    forward_s = _median_s(forward, device, 5)
    out = forward()

    def backward() -> None:
        torch.autograd.grad(out, inputs, grad, retain_graph=True)

    backward_s = _median_s(backward, device, 5)
    return {
        "version": kernel.version,
        "forward_tflops": forward_flops / forward_s / 1e12,
        "backward_tflops": 2.5 * forward_flops / backward_s / 1e12,
        "both_tflops": 3.5 * forward_flops / (forward_s + backward_s) / 1e12,
    }


def mfu(tiny: bool) -> Iterator[Json]:
    """The two presets that have an MFU to reach, with one choice changed at a time, in one process."""
    rows: list[Json] = []
    for name in ("llama2_7b_4l_32k", "llama2_7b_4l_128k"):
        for variant, sets in VARIANTS.items():
            if tiny and variant in _OF_A_GPU:
                continue
            found = attempt(lambda name=name, sets=sets: measure(preset_of(name, tiny, **sets)).as_json())
            rows.append({"preset": name, "variant": variant} | found)
            yield {"rows": rows}


VARIANTS: dict[str, dict[str, object]] = {
    "selective": {"training.checkpointing": "selective"},
    "compile": {"training.checkpointing": "selective", "engine.compile": True},
    "flash3": {"training.checkpointing": "selective", "engine.kernel": "flash3"},
    "cudnn": {"training.checkpointing": "selective", "engine.kernel": "cudnn"},
    "liger": {"training.checkpointing": "selective", "engine.liger": True},
    "full": {"training.checkpointing": "full"},
}
_OF_A_GPU = {"flash3", "cudnn", "liger"}
"""Kernels that no CPU has."""


def train(tiny: bool) -> Iterator[Json]:
    """TGS, model MFU, peak memory and where the time goes, of presets that fit one GPU."""
    rows: list[Json] = []
    for name in ("llama2_7b_4l_32k", "llama3_1b_8k", "llama3_1b_32k", "llama3_1b_128k"):
        rows.append({"preset": name} | attempt(lambda name=name: _train_row(name, tiny)))
        yield {"rows": rows}


def _train_row(name: str, tiny: bool) -> Json:
    return measure(preset_of(name, tiny), profile=True).as_json()


def emulate(tiny: bool) -> Iterator[Json]:
    """One rank of large meshes, projected; the published rows scaled by the planner stand beside them."""
    rows: list[Json] = []
    for name, built in (("llama2_7b_128k", 4), ("llama2_70b_1M", 2), ("llama2_7b_1M", 2)):
        found = attempt(lambda name=name, built=built: emulated_row(preset_of(name, tiny), built, tiny))
        rows.append({"preset": name} | found)
        yield {"rows": rows}


def overhead(tiny: bool) -> Iterator[Json]:
    """Step time with live events against without, and of profiled steps by recipe, alternating."""
    from benchmarks.gpu_overhead import events_ratio, recipe_ratios

    preset = preset_of("llama3_1b_8k", tiny)
    found = {"events": attempt(lambda: events_ratio(preset, 1 if tiny else 8)), "recipes": {}}
    yield found
    for recipes in recipe_ratios(preset, 1 if tiny else 2):
        yield found | {"recipes": recipes}


def peers(tiny: bool) -> Iterator[Json]:
    """The same work by transformers with SDPA and by DeepSpeed's stock ALST recipe, in turns with ours."""
    from benchmarks.gpu_peers import against_peers

    preset = preset_of("llama2_7b_4l_32k", tiny, **{"training.checkpointing": "selective"})
    yield from against_peers(preset, rounds=1 if tiny else 2)


SECTIONS: dict[str, Callable[[bool], Iterator[Json]]] = {
    "attention": attention,
    "mfu": mfu,
    "gemm": gemm,
    "emulate": emulate,
    "train": train,
    "overhead": overhead,
    "peers": peers,
}


def preset_of(name: str, tiny: bool, **sets: object) -> Preset:
    """A preset on this device, without downloads; tiny: the same switches on a CPU at a test's sizes."""
    assignments = [f"{key}={json.dumps(value)}" for key, value in sets.items()]
    preset = presets.resolve(name, [*assignments, "workload.corpus=lengths", "workload.concat=1"]).preset
    if not tiny:
        return preset
    world = preset.world_size
    model = replace(
        preset.model, num_layers=2, hidden_size=64, intermediate_size=96, vocab_size=256, head_dim=8,
        num_query_heads=max(8, preset.parallel.sp), num_kv_heads=max(4, preset.parallel.sp),
    )  # fmt: skip
    return replace(
        preset,
        model=model,
        hardware=replace(preset.hardware, device="cpu", num_gpus=world),
        workload=replace(preset.workload, seq_len=max(128, 32 * preset.parallel.sp)),
    )


def measure(preset: Preset, steps: int = 3, warmup: int = 2, profile: bool = False) -> Measured:
    """Build a preset's only rank, run it, and let go of it."""
    with single_rank_group(preset):
        rank = Rank(preset)
        found = rank.measure(steps, warmup, profile)
        del rank
        release()
    return found


def _median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    for _ in range(2):
        work()
    return statistics.median(seconds_of(work, device) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", choices=list(SECTIONS))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    begin_s = time.perf_counter()
    for found in SECTIONS[args.section](args.tiny):
        print(json.dumps(found | {"wall_s": time.perf_counter() - begin_s}), flush=True)


if __name__ == "__main__":
    main()
