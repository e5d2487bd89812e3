"""Makes the recorded run that ships with the package, from a simulated event stream (no measurement).

python benchmarks/make_recording.py            # writes tgsbench/recorded/
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from tgsbench import presets
from tgsbench.events.simulate import Scenario, write_events
from tgsbench.launch.command import agent_argv, as_script
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Outcome
from tgsbench.store import results
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
    run.write("env.json", {"simulated": True, "note": NOTE})
    run.write("outcome.json", Outcome(ended_unix=CREATED_UNIX + 4000))
    write_atomic(run.path / "preset.toml", presets.to_toml(preset).encode())
    write_atomic(run.path / "command.sh", as_script(argv).encode())
    write_events(run.path, _scenario(preset))
    for rank in range(preset.world_size):
        warning = "WARNING: GPU 5 clocks held down: thermal (simulated)\n" if rank == 5 else ""
        log = LOG.format(rank=rank, warning=warning)
        (run.log_dir / f"rank{rank:05}.log").write_text(log, "utf-8")
    result = results.build_result(run)
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
        profile_steps=2,
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


if __name__ == "__main__":
    target = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tgsbench" / "recorded"
    )
    print(make(target))
