"""Measures every setting of small presets on two CPU ranks: `python -m benchmarks.tune_table FILE`.

The table is the truth that benchmarks/tune_replay.py replays. A row is a setting in one pass: the processor
seconds and the wall-clock seconds of each measured step, of the rank that took most. Processor time counts no
waiting for other processes' turns, so on a busy machine it says what the wall clock cannot; on two idle cores
both agree but for what ranks wait for each other.

Ranks are forked from one process that has imported torch once: a setting costs its build and its steps. The
file is written row by row; the same command goes on where it was, and `--passes 2` measures all again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tgsbench import presets
from tgsbench.planner.search import assignments_of
from tgsbench.presets.validate import mesh_problems
from tgsbench.schema.preset import Preset

WORLD = 2
WARMUP, STEPS = 1, 2
TIMEOUT_S = 600
FAMILY = {
    "h256-512": ["workload.seq_len=512"],
    "h256-1k": [],
    "h512-512": [
        "workload.seq_len=512",
        *("model.num_layers=2", "model.hidden_size=512", "model.intermediate_size=1376", "model.head_dim=64"),
    ],
    "h256-2k": ["workload.seq_len=2048"],
}
"""What is changed in tiny_cpu."""
ENGINES = (
    ["engine.name=fsdp2"],
    ["engine.name=fsdp2", "engine.zero_stage=2"],
    ["engine.name=deepspeed", "engine.zero_stage=3"],
    ["engine.name=deepspeed", "engine.zero_stage=1"],
)
MESHES = (["parallel.sp=1"], ["parallel.sp=2"], ["parallel.sp=2", "parallel.ring=2"])
COLUMNS = ("family", "pass", "change", "status", "cpu_s", "wall_s", "tokens", "load", "reason")


def settings(family: str) -> Iterator[tuple[str, Preset]]:
    """Every combination that breaks no rule, by what it changes."""
    batches = [f"training.micro_batch={n}" for n in (1, 2, 4)]
    modes = [f"training.checkpointing={mode}" for mode in ("full", "selective", "none")]
    for engine, mesh, batch, mode in itertools.product(ENGINES, MESHES, batches, modes):
        if "parallel.ring=2" in mesh and "engine.name=fsdp2" not in engine:
            continue
        preset = presets.resolve("tiny_cpu", [*FAMILY[family], *engine, *mesh, batch, mode]).preset
        assert not mesh_problems(preset)
        yield " ".join(assignments_of(preset)), preset


def measured(preset: Preset) -> dict[str, Any]:
    """Fork the ranks of one setting and wait for them; the slowest rank's seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_fork(preset, rank, Path(folder)) for rank in range(WORLD)]
        end_s, codes = time.monotonic() + TIMEOUT_S, dict[int, int]()
        while len(codes) < WORLD:
            for pid in [pid for pid in ranks if pid not in codes]:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > end_s or any(codes.values()):
                for pid in [pid for pid in ranks if pid not in codes]:
                    os.kill(pid, 9)
                    codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            time.sleep(0.05)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text() or "{}") for rank in range(WORLD)]
    if any(codes.values()) or any("cpu_s" not in one for one in found):
        return {"status": "failed", "reason": next((f["error"] for f in found if "error" in f), "killed")}
    return {
        "status": "ok",
        "cpu_s": [max(pair) for pair in zip(*(f["cpu_s"] for f in found), strict=True)],
        "wall_s": [max(pair) for pair in zip(*(f["wall_s"] for f in found), strict=True)],
        "tokens": preset.tokens_per_step // WORLD,
    }


def _fork(preset: Preset, rank: int, folder: Path) -> int:
    path = folder / f"{rank}.json"
    path.write_text("")
    if pid := os.fork():
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not os.environ.get("TUNE_TABLE_LOUD"):
            os.dup2(null, 2)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
        path.write_text(json.dumps(_steps(preset, rank, folder)))
        code = 0
    except BaseException as error:  # noqa: BLE001 - the end of a process: all is told
        path.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}))
    finally:
        os._exit(code)


def _steps(preset: Preset, rank: int, folder: Path) -> dict[str, list[float]]:
    import torch
    import torch.distributed as dist

    from tgsbench.training.engines.build import build_engine, make_batches
    from tgsbench.training.loop import Stepper
    from tgsbench.training.parallel.mesh import mesh_of
    from tgsbench.training.witness import Witness
    from tgsbench.workload import prepare

    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    mesh, device, num_steps = mesh_of(preset, "cpu"), torch.device("cpu"), WARMUP + STEPS
    data = prepare(preset, preset.packs_per_step * num_steps, lambda _: None)
    engine = build_engine(preset, mesh, device, lambda _: None)
    batches = make_batches(preset, mesh, data, device)
    stepper = Stepper(preset, engine, batches, num_steps, Witness(preset, mesh, data, engine))
    cpu_s, wall_s = [], []
    for index in range(num_steps):
        dist.barrier()
        begin_cpu_s = time.process_time()
        wall_s.append(stepper.step(index, "measure").step_s)
        cpu_s.append(time.process_time() - begin_cpu_s)
    return {"cpu_s": cpu_s[WARMUP:], "wall_s": wall_s[WARMUP:]}


def main() -> None:
    """Measure what the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default=",".join(FAMILY))
    parser.add_argument("--passes", type=int, default=2)
    args = parser.parse_args()
    import deepspeed  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import tgsbench.training.rank  # noqa: F401

    known = _known(args.file)
    with args.file.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            writer.writeheader()
        for family, number in itertools.product(args.only.split(","), range(1, args.passes + 1)):
            todo = list(settings(family))
            random.Random(number).shuffle(todo)
            for change, preset in todo:
                if (family, str(number), change) in known:
                    continue
                begin_s, load = time.monotonic(), os.getloadavg()[0]
                found = measured(preset)
                for name in ("cpu_s", "wall_s"):
                    found[name] = " ".join(f"{second:.4f}" for second in found.get(name, []))
                row = {"family": family, "pass": number, "change": change, "load": f"{load:.1f}"}
                writer.writerow(row | found)
                file.flush()
                print(f"{time.monotonic() - begin_s:5.1f} s", family, number, change, found, flush=True)


def _known(path: Path) -> set[tuple[str, str, str]]:
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["family"], row["pass"], row["change"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    sys.exit(main())
