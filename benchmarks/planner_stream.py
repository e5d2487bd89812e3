"""The plan beside one rank's real operator stream: FLOPs, collective bytes, peak of live tensors.

`python -m benchmarks.planner_stream [--json OUT] [--only WORD]`: presets whole, and small ones in every
checkpoint mode, with fewer KV heads than sp, whole logits, several micro-batches. Needs torch and no GPU.
To reach: FLOPs, all-to-all and all-gather within 2 %, peak within 5 %, one trace under 60 s.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tgsbench import presets
from tgsbench.launch.dry_run import dry_run
from tgsbench.planner.plan import estimate, machine_of
from tgsbench.planner.stream import planned_stream
from tgsbench.report.plan import dry_run_totals

_WHOLE = ("engine.activation_offload=false", "engine.tiled_mlp=false")
CASES: tuple[tuple[str, ...], ...] = (
    ("llama2_70b_1M",),
    ("llama2_70b_8k",),
    ("llama2_70b_256k",),
    ("yi_34b_32k",),
    ("llama2_7b_8k",),
    ("llama2_7b_1M",),
    ("llama3_8b_512k",),
    ("llama3_1b_1M", "workload.seq_len=64k"),
    ("llama3_1b_1M", "workload.seq_len=256k"),
    ("llama3_1b_1M",),
    ("llama2_7b_4l_32k", "training.checkpointing=full"),
    ("llama2_7b_4l_32k", "training.checkpointing=selective"),
    ("llama2_7b_4l_32k", "training.checkpointing=none", "workload.seq_len=8k"),
    ("llama2_7b_4l_128k", "training.checkpointing=selective"),
    ("llama2_7b_4l_128k", "training.checkpointing=none"),
    ("llama3_8b_4l_512k",),
    ("llama3_8b_4l_512k", "training.checkpointing=selective", "hardware.num_gpus=16", "parallel.sp=16"),
    ("llama3_8b_512k", "engine.tiled_mlp=true", "model.num_layers=6"),
    ("llama3_8b_512k", "engine.activation_offload=true", "model.num_layers=6"),
    ("llama3_8b_4l_512k", *_WHOLE, "training.checkpointing=none", "hardware.num_gpus=16", "parallel.sp=16"),
    ("llama3_8b_4l_512k", "hardware.num_gpus=32", "parallel.sp=32"),
    ("llama3_1b_8k", "training.checkpointing=selective"),
    ("llama3_1b_8k", "training.checkpointing=none", "training.micro_batch=2"),
    ("llama3_1b_32k", "training.checkpointing=none", "hardware.num_gpus=16", "parallel.sp=16"),
    ("llama3_1b_8k", "engine.loss_chunk_tokens=0"),
    ("llama3_1b_8k", "hardware.num_gpus=1", "hardware.gpus_per_node=1"),
    ("yi_34b_128k", "model.num_layers=6", "training.checkpointing=selective"),
    ("llama2_70b_128k", "model.num_layers=6", "training.checkpointing=selective"),
    ("llama2_70b_128k", "model.num_layers=4", "training.checkpointing=none"),
    ("llama2_7b_8k", "model.num_layers=4", "training.compute_dtype=float32"),
    ("tiny_cpu",),
)
BOUNDS = {
    "product FLOPs": 0.02,
    "attention FLOPs": 0.02,
    "all-to-all bytes": 0.02,
    "all-gather bytes": 0.02,
    "reduce-scatter bytes": 0.02,
    "peak GiB": 0.05,
}
MAX_TRACE_S = 60.0


def main() -> int:
    """Print every case; exit code 1 when one is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table as JSON too")
    parser.add_argument("--only", default="", help="cases whose text holds this word")
    args = parser.parse_args()
    names = "  ".join(f"{name.split(' ')[0][:11]:>11}" for name in BOUNDS)
    print(f"{'plan / stream - 1, %':<78} {names}  peak GiB  seconds")
    table = [_row(case) for case in CASES if args.only in " ".join(case)]
    outside = [row for row in table if row["outside"]]
    print(f"{len(table) - len(outside)} of {len(table)} within bounds")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    return 1 if outside else 0


def _row(case: tuple[str, ...]) -> dict[str, Any]:
    row = compare(case[0], case[1:])
    cells = "  ".join(
        f"{100 * row['error'][n]:+11.2f}" if n in row["error"] else f"{'-':>11}" for n in BOUNDS
    )
    mark = "  OUTSIDE: " + ", ".join(row["outside"]) if row["outside"] else ""
    print(
        f"{row['case']:<78} {cells}  {row['stream']['peak GiB']:8.2f}  {row['trace_s']:7.1f}{mark}",
        flush=True,
    )
    return row


def compare(preset: str, sets: tuple[str, ...]) -> dict[str, Any]:
    """One case: stream, plan, relative errors and which of them are out of bounds."""
    resolved = presets.resolve(preset, list(sets)).preset
    run = dry_run(resolved)
    planned = planned_stream(estimate(resolved, machine_of(resolved)).work)
    measured = dry_run_totals(run)
    error = {name: planned[name] / value - 1 for name, value in measured.items() if value}
    # What the stream has none of, the plan must have none of.
    outside = [name for name, value in measured.items() if not value and planned[name]]
    outside += [name for name, e in error.items() if abs(e) > BOUNDS[name]]
    outside += ["trace"] if run.wall_s > MAX_TRACE_S else []
    return {
        "case": " ".join((preset, *sets)),
        "stream": measured,
        "plan": planned,
        "error": error,
        "trace_s": run.wall_s,
        "num_ops": run.num_ops,
        "world_size": run.world_size,
        "torch": run.torch,
        "outside": outside,
    }


if __name__ == "__main__":
    sys.exit(main())
