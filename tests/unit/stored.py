"""Run folders for tests, written without running anything."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from tgsbench import presets
from tgsbench.metrics.figures import mfu, tflops_by_convention
from tgsbench.presets import find_gpu
from tgsbench.schema.environment import Environment
from tgsbench.schema.forecast import Forecast, PlannedMemory
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Memory, Result, StepTime, Tgs
from tgsbench.store.run_dir import RunDir

FAST = [2300.0, 2310.0, 2305.0, 2290.0, 2295.0, 2302.0, 2308.0]


def a_preset(name: str = "llama2_7b_32k", *sets: str) -> Preset:
    return presets.resolve(name, list(sets)).preset


def a_result(preset: Preset, run_id: str, samples=FAST, device="NVIDIA A100-SXM4-80GB", **changes) -> Result:
    ordered = sorted(samples)
    median = statistics.median(samples) if samples else None
    tflops = {}
    if median:
        length = float(preset.workload.seq_len)
        tflops = tflops_by_convention(preset.model, length, preset.training.checkpointing, median)
    base = Result(
        run_id=run_id, status="ok", preset=preset.name, engine=preset.engine.name, device=device,
        world_size=preset.world_size, dp=preset.dp, sp=preset.parallel.sp, seq_len=preset.workload.seq_len,
        document_mask=preset.workload.document_mask, attention="native/flash2",
        checkpointing=preset.training.checkpointing, corpus="alpaca", model=preset.model,
        compute_dtype=preset.training.compute_dtype, tokens_per_step=preset.tokens_per_step,
        tgs=Tgs(
            median=median, ci95=(ordered[0], ordered[-1]) if len(samples) > 5 else None,
            n=len(samples), samples=list(samples), total=median,
        ),
        step_s=StepTime(median=1.0, samples=[1.0] * len(samples)),
        mem=Memory(peak_gib=61.2, kind="cuda", by_rank_gib=[61.2, 60.9]),
        tflops=tflops, mfu=mfu(tflops.get("model"), find_gpu(device)),
        environment=Environment(cpu="x", gpus=[device] * 8, versions={"torch": "2.13.0"}),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def a_forecast(total_gib=0.0, tensors_gib=0.0, **changes) -> Forecast:
    """A forecast without time."""
    memory = PlannedMemory(total_gib=total_gib, items={}, at="loss", moments={}, tensors_gib=tensors_gib)
    base = Forecast(
        preset="llama2_7b_32k", gpu="A100-SXM4-80GB", link="ib", num_gpus=8, dp=8, sp=1, seq_len=32768,
        engine="fsdp2", kernel="flash2", checkpointing="full", tokens_per_step=8 * 32768, memory=memory,
        verdict="fits",
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def store_run(root: Path, run_id: str, preset: Preset | None = None, created_unix=0.0, **changes) -> RunDir:
    """A finished run's folder with run.json, preset.toml and result.json."""
    preset = preset or a_preset()
    run = RunDir(root / run_id)
    for sub in ("events", "log"):
        (run.path / sub).mkdir(parents=True)
    (run.path / "preset.toml").write_text(presets.to_toml(preset))
    result = a_result(preset, run_id, **changes)
    manifest = Manifest(
        run_id=run_id, preset=preset.name, engine=preset.engine.name, created_unix=created_unix,
        world_size=preset.world_size, device=preset.hardware.device,
    )  # fmt: skip
    run.write("run.json", manifest)
    run.write("result.json", msgspec.structs.replace(result, created_unix=created_unix))
    return run
