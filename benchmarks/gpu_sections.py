"""What `gpu_check` measures, one section a process: `python -m benchmarks.gpu_sections NAME`.

Each section prints one JSON document as its last line. With --tiny every section runs on a CPU at sizes of
a test, to prove the code before a GPU is to be had; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from msgspec.structs import replace

from benchmarks.gpu_rank import Measured, Rank, device_of, seconds_of, single_rank_group
from tgsbench import presets
from tgsbench.parallel import kernels
from tgsbench.parallel.kernel_timing import Probe
from tgsbench.schema.preset import Preset

Json = dict[str, Any]


def gemm(tiny: bool) -> Json:
    """bf16 matrix products: the square that peaks, and one layer of Llama2-7B at 32k tokens; random data."""
    device = device_of(tiny)
    sizes = {"8192^3": (8192, 8192, 8192), "q": (32768, 4096, 4096), "up": (32768, 4096, 11008)}
    sizes["head"] = (8192, 4096, 32000)
    found = {}
    for name, (m, k, n) in sizes.items():
        m, k, n = (max(8, size // 256) if tiny else size for size in (m, k, n))
        a, b = (torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
        found[name] = 2 * m * k * n / _median_s(lambda a=a, b=b: a @ b, device, 20) / 1e12
    return {"tflops": found}


def attention(tiny: bool) -> Json:
    """TFLOPs forward and backward by kernel, head dim 128, causal; backward counts 2.5 forwards (FA2)."""
    device = device_of(tiny)
    rows: list[Json] = []
    for seq_len, heads in ((128, 2),) if tiny else ((8192, 32), (32768, 16), (131072, 4)):
        probe = Probe(seq_len, heads, heads, 128)
        forward_flops = 4 * seq_len**2 * 128 * heads / 2
        for name in ("sdpa",) if tiny else ("flash4", "flash3", "flash2", "cudnn", "sdpa", "varlen"):
            rows.append({"seq_len": seq_len, "heads": heads, "kernel": name})
            rows[-1] |= _kernel_row(name, probe, forward_flops, device)
    return {"rows": rows}


def _kernel_row(name: str, probe: Probe, forward_flops: float, device: torch.device) -> Json:
    try:
        kernel = kernels.make(name, device)
        *inputs, grad = probe.tensors(device)

        def forward() -> torch.Tensor:
            return kernel.run(*inputs, probe.head_dim**-0.5, None)

        forward_s = _median_s(forward, device, 5)
        out = forward()

        def backward() -> None:
            torch.autograd.grad(out, inputs, grad, retain_graph=True)

        backward_s = _median_s(backward, device, 5)
    except Exception as error:  # noqa: BLE001 - a JIT may raise anything; the row says what
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    return {
        "version": kernel.version,
        "forward_tflops": forward_flops / forward_s / 1e12,
        "backward_tflops": 2.5 * forward_flops / backward_s / 1e12,
    }


def train(tiny: bool) -> Json:
    """TGS, model MFU, peak memory and where the time goes, of presets that fit one GPU."""
    names = ("llama3_1b_8k", "llama3_1b_32k", "llama2_7b_4l_32k", "llama2_7b_4l_128k", "llama3_1b_128k")
    return {"rows": [_train_row(name, tiny).as_json() for name in names]}


def _train_row(name: str, tiny: bool, **sets: object) -> Measured:
    return measure(preset_of(name, tiny, **sets), profile=True)


def selective(tiny: bool) -> Json:
    """The same step with attention saved and with everything recomputed, A B A B."""
    samples: dict[str, list[float]] = {"selective": [], "full": []}
    for _ in range(2):
        for mode, found in samples.items():
            preset = preset_of("llama2_7b_4l_128k", tiny, **{"training.checkpointing": mode})
            found.append(measure(preset, steps=2).tgs)
    return {"tgs": samples, "ratio": _ratio(samples["selective"], samples["full"])}


def long(tiny: bool) -> Json:
    """Peak memory at 1M and 512k tokens on one GPU.

    Attention is masked by document here, which leaves every tensor its size and takes seconds instead of
    the 11 minutes that a causal step at 1M tokens needs.
    """
    rows = []
    for name in ("llama3_1b_1M", "llama3_8b_4l_512k"):
        preset = preset_of(name, tiny, **{"workload.document_mask": True})
        rows.append(measure(preset, steps=1, warmup=1).as_json())
    return {"rows": rows}


def emulate(tiny: bool) -> Json:
    """One rank of large meshes, projected; the published rows scaled by the planner stand beside them."""
    from benchmarks.gpu_rank import emulated_row

    cases = (("llama2_7b_128k", 4, 4), ("llama2_70b_1M", 2, 3), ("llama2_7b_1M", 2, 2))
    return {"rows": [emulated_row(preset_of(name, tiny), *case, tiny) for name, *case in cases]}


def overhead(tiny: bool) -> Json:
    """Step time with live events against without, and of profiled steps by recipe, alternating."""
    from benchmarks.gpu_overhead import events_ratio, recipe_ratios

    preset = preset_of("llama3_1b_8k", tiny)
    return {"events": events_ratio(preset), "recipes": recipe_ratios(preset)}


def peers(tiny: bool) -> Json:
    """The same work by transformers with SDPA and layer checkpoints, A B A B; DeepSpeed where it imports."""
    from benchmarks.gpu_peers import against_deepspeed, against_transformers

    preset = preset_of("llama2_7b_4l_32k", tiny, **{"training.checkpointing": "selective"})
    return {"transformers": against_transformers(preset), "deepspeed_alst": against_deepspeed(preset)}


SECTIONS: dict[str, Callable[[bool], Json]] = {
    "gemm": gemm,
    "attention": attention,
    "train": train,
    "selective": selective,
    "emulate": emulate,
    "overhead": overhead,
    "long": long,
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
        workload=replace(preset.workload, seq_len=8 * preset.parallel.sp * 16),
    )


def measure(preset: Preset, steps: int = 3, warmup: int = 2, profile: bool = False) -> Measured:
    """Build a preset's only rank, run it, and let go of it."""
    with single_rank_group(preset):
        rank = Rank(preset)
        found = rank.measure(steps, warmup, profile)
        del rank
        gc.collect()
        torch.cuda.empty_cache()
    return found


def _median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    for _ in range(2):
        work()
    return statistics.median(seconds_of(work, device) for _ in range(repeats))


def _ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _names() -> Iterator[str]:
    yield from SECTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=list(_names()))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    begin_s = time.perf_counter()
    found = SECTIONS[args.section](args.tiny)
    found["wall_s"] = time.perf_counter() - begin_s
    sys.stdout.flush()
    print(json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
