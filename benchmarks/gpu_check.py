"""Prove on one GPU what CPUs cannot: `make gpu-check`, or `python -m benchmarks.gpu_check`.

Every section runs in a process of its own, in this order, as long as the budget lasts; figures, targets and
what did not run go to benchmarks/results/<gpu>-<date>.json and are printed as a table. Needs no network.
--sections a,b runs some of them and --merge FILE adds to an earlier file of the same machine;
--tiny runs everything on a CPU at sizes of a test: its figures mean nothing and are not stored.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_report import lines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SECTIONS = ("gemm", "attention", "train", "selective", "emulate", "overhead", "peers", "long", "tests")
TYPICAL_S = {
    "gemm": 12, "attention": 45, "train": 100, "selective": 60, "emulate": 110, "overhead": 45, "peers": 60,
    "long": 80, "tests": 40,
}  # fmt: skip
"""Estimates for an H100; a section that would overrun the budget is skipped and said to be."""

Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--budget-s", type=float, default=470.0)
    parser.add_argument("--merge", type=Path)
    parser.add_argument("--out", type=Path, help="Folder of the result (benchmarks/results).")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    report: Json = json.loads(args.merge.read_text()) if args.merge else {"sections": {}}
    report["machine"], report["tiny"] = machine(), args.tiny
    if not args.tiny and not report["machine"]["gpu"]:
        print("no GPU here; make gpu-check GPU_ARGS=--tiny proves the code on a CPU", file=sys.stderr)
        return 3
    run_all(args.sections.split(","), report, args.budget_s, args.tiny)
    for line in lines(report):
        print(line)
    if not args.tiny:
        print(f"stored {store(report, args.out or RESULTS)}")
    return 1 if any("error" in found for found in report["sections"].values()) else 0


def run_all(names: list[str], report: Json, budget_s: float, tiny: bool) -> None:
    """Run sections one after the other; what ran is kept even if a later one breaks."""
    deadline = time.monotonic() + budget_s
    for name in names:
        left_s = deadline - time.monotonic()
        if not tiny and TYPICAL_S[name] > left_s:
            report["sections"][name] = {"skipped": f"{left_s:.0f} s left, it takes about {TYPICAL_S[name]} s"}
            continue
        begin_s = time.monotonic()
        report["sections"][name] = section(name, tiny, timeout_s=max(60.0, left_s + 60))
        report["sections"][name]["total_s"] = round(time.monotonic() - begin_s, 1)
        print(f"{name}: {report['sections'][name]['total_s']} s", file=sys.stderr, flush=True)


def section(name: str, tiny: bool, timeout_s: float) -> Json:
    """One section's document, or its error."""
    argv = [sys.executable, "-m", "benchmarks.gpu_sections", name, *(["--tiny"] if tiny else [])]
    if name == "tests":
        # Without the project's own settings, whose plugins need not be installed where the GPU is.
        options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(ROOT)]
        argv = [sys.executable, "-m", "pytest", *options, "tests/gpu"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if tiny:
        env["OMP_NUM_THREADS"] = "1"
    try:
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not end within {timeout_s:.0f} s"}
    if name == "tests":
        return _tests(done)
    out = done.stdout.strip().splitlines()
    if done.returncode or not out:
        return {"error": (done.stderr or done.stdout)[-3000:]}
    document: Json = json.loads(out[-1])
    return document


def _tests(done: subprocess.CompletedProcess[str]) -> Json:
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    if done.returncode not in (0, 5):
        return {"error": done.stdout[-3000:] + done.stderr[-500:], "counts": counts}
    return {"counts": counts}


def machine() -> Json:
    """What the figures were measured on."""
    import platform

    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(
            f"{sys.executable} has no {error.name}; name the Python that has: make gpu-check PYTHON=…"
        ) from error
    found: Json = {"gpu": "", "torch": str(torch.__version__), "transformers": transformers.__version__}
    found["python"] = platform.python_version()
    found["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["memory_gib"] = round(properties.total_memory / 2**30, 2)
        found["cudnn"] = torch.backends.cudnn.version()
        found["driver"] = _driver()
    return found


def _driver() -> str:
    argv = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


def store(report: Json, folder: Path) -> Path:
    """Write <gpu>-<date>.json."""
    slug = re.sub(r"[^a-z0-9]+", "-", report["machine"]["gpu"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug}-{datetime.datetime.now(datetime.UTC).date()}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
