"""Makes the recorded run that ships with the package, from a simulated event stream (no measurement).

python benchmarks/make_recording.py            # writes tgsbench/recorded/
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from benchmarks.simulate import Scenario, write_events
from tgsbench import presets
from tgsbench.launch.command import agent_argv, as_script
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.presets.recipes import load_recipe, num_profile_steps
from tgsbench.results import results
from tgsbench.schema.environment import Environment
from tgsbench.schema.hotspots import Collective, Finding, HotOp, Profile, RankProfile, Skew
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Outcome
from tgsbench.store.run_dir import RunDir, write_atomic

RUN_ID = "simulated-llama2_7b_128k"
CREATED_UNIX = 1_780_000_000.0
NOTE = "SIMULATED: made-up events that show the screens; no hardware ran this and it measures nothing"
LOG = """simulated log of rank {rank}: no process wrote this
[init] process group of 8 ranks
[data] packing the corpus
[build] llama2_7b, 32 layers, sp 8
[warmup] step 0
{warning}[measure] step 3
[teardown] done
"""


def make(root: Path) -> Path:
    """Write the recording below `root` and return its folder; the same bytes every time."""
    preset = _preset()
    run = RunDir(root / RUN_ID)
    shutil.rmtree(run.path, ignore_errors=True)
    run.log_dir.mkdir(parents=True)
    argv = agent_argv(Path("RUN_DIR"), preset, python="python3")
    run.write("run.json", _manifest(preset, argv))
    run.write("env.json", Environment(simulated=True, note=NOTE))
    run.write("outcome.json", Outcome(ended_unix=CREATED_UNIX + 4000))
    write_atomic(run.path / "preset.toml", presets.to_toml(preset).encode())
    write_atomic(run.path / "command.sh", as_script(argv).encode())
    write_events(run.path, _scenario(preset))
    for rank in range(preset.world_size):
        warning = "WARNING: GPU 5 clocks held down: thermal (simulated)\n" if rank == 5 else ""
        log = LOG.format(rank=rank, warning=warning)
        (run.log_dir / f"rank{rank:05}.log").write_text(log, "utf-8")
    (run.path / "profile").mkdir()
    run.write("profile/hotspots.json", simulated_profile(preset.world_size))
    result = results.result_from_folder(run)
    result.run_dir = ""
    run.write("result.json", result)
    return run.path


def _preset() -> Preset:
    preset = presets.resolve("llama2_7b_128k", ["measure.steps=24", "profile=hotspots"]).preset
    return msgspec.structs.replace(preset, description=NOTE)


def _manifest(preset: Preset, argv: list[str]) -> Manifest:
    return Manifest(
        run_id=RUN_ID,
        preset=preset.name,
        engine=preset.engine.name,
        created_unix=CREATED_UNIX,
        argv=argv,
        world_size=preset.world_size,
        device="simulated",
        host="simulated",
        tags=["simulated"],
    )


def _scenario(preset: Preset) -> Scenario:
    calls, num_bytes = expected_all_to_alls(preset)
    tokens = preset.tokens_per_step // preset.world_size
    return Scenario(
        world=preset.world_size,
        warmup=preset.measure.warmup,
        steps=preset.measure.steps,
        profile_steps=num_profile_steps(load_recipe(preset.profile)),
        step_s=tokens / 1000,
        tokens=tokens,
        micro_steps=preset.accumulation,
        a2a_calls=calls,
        a2a_bytes=num_bytes,
        straggler=5,
        straggles_from=15,
        gpu_period_s=30,
        heartbeat_s=60,
    )


PARTS_MS = {
    "attention_fwd": 22_150.0,
    "attention_bwd": 43_900.0,
    "recompute": 33_080.0,
    "gemm": 26_400.0,
    "norm_elementwise": 4_310.0,
    "loss": 1_180.0,
    "optimizer": 610.0,
    "all_to_all": 3_960.0,
    "all_gather": 420.0,
    "reduce_scatter": 260.0,
    "idle": 730.0,
}
"""Made up, with the proportions of a step that full recompute and long attention would have."""
COMM_MS = {"all_to_all": 4_510.0, "all_gather": 7_900.0, "reduce_scatter": 4_020.0}
KERNELS = (
    ("flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention_bwd", 256, 43_900.0, 166.0),
    ("flash_fwd_kernel", "attention_fwd", 512, 44_300.0, 198.0),
    ("ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn", "gemm", 7_168, 37_330.0, 224.0),
    ("vectorized_elementwise_kernel", "norm_elementwise", 14_336, 3_150.0, None),
    ("ncclDevKernel_SendRecv", "all_to_all", 1_536, 4_510.0, None),
    ("ncclDevKernel_AllGather_RING_LL", "all_gather", 528, 7_900.0, None),
)


def simulated_profile(world: int) -> Profile:
    """A made-up analysis whose parts add up."""
    ranks = [_rank_profile(rank, 1.0 if rank != 5 else 1.18) for rank in range(world)]
    whole = _rank_profile(0, 1.0)
    return Profile(
        source=RUN_ID, device="cuda", device_name="simulated", world_size=world, step_ms=whole.step_ms,
        parts_ms=whole.parts_ms, shares=whole.shares, comm_ms=whole.comm_ms, exposed_ms=whole.exposed_ms,
        hidden_ms=whole.hidden_ms, collectives=whole.collectives, top=whole.top,
        skew=[
            Skew(
                name="all_to_all", group="sp", calls=3072, last_rank=5, last_share=0.93, mean_skew_us=2100.0
            )
        ],
        findings=FINDINGS, caveats=[NOTE], ranks=ranks,
    )  # fmt: skip


FINDINGS = [
    Finding(
        code="recompute", share=PARTS_MS["recompute"] / sum(PARTS_MS.values()),
        text="recompute: 24 % of the step, two thirds of it attention",
        hint="--set training.checkpointing=selective keeps attention's output instead",
    ),
    Finding(
        code="straggler", share=0.15, text="rank 5 computes 1.18 times as long as the others",
        hint="its GPU is throttled: look at its temperature",
    ),
    Finding(
        code="all_to_all", share=PARTS_MS["all_to_all"] / sum(PARTS_MS.values()),
        text="all-to-all: 2.9 % of the step, 88 % of it exposed",
    ),
]  # fmt: skip


def _rank_profile(rank: int, slow: float) -> RankProfile:
    parts = {part: ms * (slow if part not in COMM_MS else 1.0) for part, ms in PARTS_MS.items()}
    step_ms = sum(parts.values())
    exposed = {kind: PARTS_MS[kind] for kind in COMM_MS}
    hidden = {kind: COMM_MS[kind] - PARTS_MS[kind] for kind in COMM_MS}
    return RankProfile(
        rank=rank, device="cuda", device_name="simulated", steps=[28, 29], window_ms=2 * step_ms,
        step_ms=step_ms,
        parts_ms=parts, shares={part: ms / step_ms for part, ms in parts.items()}, comm_ms=COMM_MS,
        exposed_ms=exposed, hidden_ms=hidden, idle_ms=parts["idle"],
        collectives=[_collective(kind, exposed[kind], hidden[kind]) for kind in COMM_MS],
        top=[_kernel(*kernel, step_ms) for kernel in sorted(KERNELS, key=lambda kernel: -kernel[3])],
    )  # fmt: skip


def _collective(kind: str, exposed_ms: float, hidden_ms: float) -> Collective:
    group, calls, num_bytes = {
        "all_to_all": ("sp", 1_536.0, 5.15e11),
        "all_gather": ("fsdp", 528.0, 1.08e12),
        "reduce_scatter": ("fsdp", 264.0, 5.4e11),
    }[kind]
    total_s = (exposed_ms + hidden_ms) / 1000
    return Collective(
        name=kind, group=group, calls=calls, bytes=num_bytes, total_ms=total_s * 1000, exposed_ms=exposed_ms,
        hidden_ms=hidden_ms, gb_per_s=num_bytes / total_s / 1e9,
        bus_gb_per_s=num_bytes * 7 / 8 / total_s / 1e9,
        peak_gb_per_s=300.0, peak_source="simulated",
    )  # fmt: skip


def _kernel(name: str, kind: str, calls: int, total_ms: float, tflops: float | None, step_ms: float) -> HotOp:
    mean_us = total_ms * 1000 / calls
    return HotOp(
        name=name, kind=kind, calls=calls, total_ms=total_ms, share=total_ms / step_ms, mean_us=mean_us,
        p95_us=1.1 * mean_us, tflops=tflops, peak_tflops=312.0 if tflops else None,
    )  # fmt: skip


if __name__ == "__main__":
    target = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tgsbench" / "recorded"
    )
    print(make(target))
