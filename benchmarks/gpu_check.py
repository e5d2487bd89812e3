"""Prove on one GPU what CPUs cannot: `make gpu-check`, or `python -m benchmarks.gpu_check`.

Every section runs in a process of its own, the most valuable first, as long as the budget lasts; each fits
into one command of ten minutes: --sections NAME. Figures, targets and what did not run are printed as a table
and kept in gpu-results/<gpu>-<date>.json, outside what git knows, written anew after every section. Needs no
network. Exit code 0: every section ran whole, 1: one did not or failed, 3: no GPU, 6: a package is missing.
--merge FILE adds to an earlier file of the same machine; --collect FILE… puts the files of several commands
together into benchmarks/results, on any machine; --tiny runs everything on a CPU at sizes of a test: its
figures mean nothing and are not stored.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_report import lines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FRESH = ROOT / "gpu-results"
TYPICAL_S = {
    "tests": 60, "attention": 45, "mfu": 240, "gemm": 10, "emulate": 105, "train": 90, "overhead": 45,
    "peers": 80,
}  # fmt: skip
"""Estimates for an H100, from the planner's steps. Peak memory is no section: `run --virtual-gpu` tells it
without a GPU, within 2 % of the plan, so the minutes of a GPU buy time and numerics alone."""
COLD_S = 60.0
"""What the first process on a machine may take beside: a cold disk, CUDA's start, a compiler's first run."""
SECTIONS = tuple(TYPICAL_S)
BUDGET_S = 570.0
"""Of the 10 minutes that a borrowed GPU may allow a command, with what installing the wheels takes."""
NEEDED = ("torch", "transformers", "numpy", "msgspec", "click", "psutil")

Json = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    begin_s = time.monotonic()
    args = _arguments(argv)
    if args.collect:
        return collect(args.collect, args.out or RESULTS)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return _refuse(6, f"{sys.executable} has no {', '.join(missing)}; {_remedy(missing)}")
    try:
        report = read_report(args.merge) if args.merge is not None else {"sections": {}}
    except ValueError as error:
        return _refuse(2, f"--merge {error}")
    here = machine()
    if not args.tiny and not here["gpu"]:
        why = here["problem"] or "no device is visible"
        return _refuse(
            3, f"no GPU can be used here: {why}; make gpu-check GPU_ARGS=--tiny proves the code on a CPU"
        )
    if args.merge is not None and (other := _differs(report.get("machine", {}), here)):
        return _refuse(2, f"--merge {args.merge}: {other}")
    report |= {"machine": here, "tiny": args.tiny}
    path = None if args.tiny else args.merge or new_file(here["gpu"], args.out or FRESH)
    try:
        run_all(args.sections, report, begin_s + args.budget_s, path)
        code = 0 if all(is_whole(report["sections"][name]) for name in args.sections) else 1
    except KeyboardInterrupt:
        code = 130
    for line in lines(report):
        print(line)
    if path is not None and path.exists():
        print(f"stored {path}")
    return code


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--sections", type=_sections, default=list(SECTIONS), metavar="A,B", help=", ".join(SECTIONS)
    )
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    parser.add_argument("--merge", type=Path)
    parser.add_argument("--collect", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, help="Folder of the result.")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args(argv)


def collect(paths: list[Path], folder: Path) -> int:
    """Put the sections of several commands on one kind of machine into one new file of `folder`.

    Where two files have a section, the one that ran whole counts, then the later file.
    """
    try:
        reports = [read_report(path) for path in paths]
    except ValueError as error:
        return _refuse(2, f"--collect {error}")
    first = reports[0]
    sections: Json = {}
    for path, report in zip(paths, reports, strict=True):
        if why := _differs(first["machine"], report["machine"]):
            return _refuse(2, f"--collect {paths[0]}: {why} ({path})")
        for name, found in report["sections"].items():
            if is_whole(found) or not is_whole(sections.get(name, {"skipped": ""})):
                sections[name] = found
    together = first | {"sections": {name: sections[name] for name in SECTIONS if name in sections}}
    path = new_file(first["machine"]["gpu"], folder)
    store(together, path)
    for line in lines(together):
        print(line)
    print(f"stored {path}")
    return 0


def read_report(path: Path) -> Json:
    """A report that was stored; raises ValueError, with the path, for anything else."""
    try:
        report: Json = json.loads(path.read_text())
        known = report["sections"].keys() <= set(SECTIONS) and report["machine"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no report of gpu-check: {error}") from error
    if not known:
        raise ValueError(f"{path}: no report of this version: it has sections beside {', '.join(SECTIONS)}")
    return report


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def _remedy(missing: list[str]) -> str:
    if {"torch", "transformers"} & set(missing):
        return "name the Python that has: make gpu-check PYTHON=…"
    return "fill wheels/ on a machine with network by make gpu-wheels, and copy it here"


def _refuse(code: int, text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def _differs(before: Json, here: Json) -> str:
    """Why figures of two machines do not belong into one file, or an empty string."""
    for key in ("gpu", "torch", "transformers"):
        if before.get(key) != here[key]:
            return f"it is of {key} {before.get(key)!r}, this machine has {here.get(key)!r}"
    return ""


def run_all(names: list[str], report: Json, deadline_s: float, path: Path | None) -> None:
    """Run sections one after the other and write the report after each.

    `deadline_s` is on the monotonic clock; tiny sizes know none.
    """
    for name in names:
        left_s = deadline_s - time.monotonic()
        if not report["tiny"] and left_s < TYPICAL_S[name] / 2:
            reason = f"{max(0.0, left_s):.0f} s left, it takes about {TYPICAL_S[name]} s: --sections {name}"
            report["sections"].setdefault(name, {"skipped": reason})  # what --merge brought stays
            continue
        # Twice what is expected at most, so that a section that hangs leaves time to the others.
        limit_s = 600.0 if report["tiny"] else min(left_s, 2 * TYPICAL_S[name] + COLD_S)
        begin_s = time.monotonic()
        report["sections"][name] = section(name, report["tiny"], limit_s)
        report["sections"][name]["total_s"] = round(time.monotonic() - begin_s, 1)
        print(f"{name}: {report['sections'][name]['total_s']} s", file=sys.stderr, flush=True)
        if path is not None:
            store(report, path)


def is_whole(found: Json) -> bool:
    """Did a section run to its end without a failure?"""
    return not ({"error", "skipped"} & found.keys() or any("error" in row for row in found.get("rows", [])))


def section(name: str, tiny: bool, limit_s: float) -> Json:
    """One section's document; with an `error` where it failed or was cut off, beside what it had found."""
    argv = [sys.executable, "-m", "benchmarks.gpu_sections", name, *(["--tiny"] if tiny else [])]
    if name == "tests":
        # Without the project's own settings, whose plugins need not be installed where the GPU is.
        options = ["-v", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider", "-c", os.devnull]
        argv = [sys.executable, "-m", "pytest", *options, "--rootdir", str(ROOT), "tests/gpu"]
    code, out, err = _run(argv, _environment(tiny), limit_s)
    found = _tests(out) if name == "tests" else _last_document(out)
    if code is None:
        found["error"] = f"cut off after {limit_s:.0f} s"
    elif code not in (0, 5):  # pytest's 5: no test was chosen
        found["error"] = (err.strip() or out.strip())[-3000:]
    elif not found:
        found["error"] = "it found nothing"
    return found


def _environment(tiny: bool) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    env["PYTHONUNBUFFERED"] = "1"  # so that a section that is cut off has said what it found
    if tiny:
        env["OMP_NUM_THREADS"] = "1"
    return env


def _run(argv: list[str], env: dict[str, str], limit_s: float) -> tuple[int | None, str, str]:
    """Exit code (None: it was killed, with all that it had started), stdout, stderr."""
    from tgsbench.system.lifetime import die_with_parent_argv

    process = subprocess.Popen(
        die_with_parent_argv(argv),
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, out, err
    return process.returncode, out, err


def _last_document(out: str) -> Json:
    """The last whole line that is a JSON object: sections tell what they have after every row."""
    for line in reversed(out.splitlines()):
        if line.startswith("{"):
            try:
                found: Json = json.loads(line)
            except ValueError:  # cut off inside the line
                continue
            return found
    return {}


def _tests(out: str) -> Json:
    """How many tests ended how, and which failed, from pytest's own lines."""
    ended = re.findall(r"^(tests/\S+.*?) (PASSED|FAILED|SKIPPED|ERROR)\b", out, re.MULTILINE)
    counts = {
        word.lower(): sum(end == word for _, end in ended)
        for word in ("PASSED", "FAILED", "SKIPPED", "ERROR")
    }
    failed = [name for name, end in ended if end in ("FAILED", "ERROR")]
    return {"counts": counts, "failed": failed} if ended else {}


def machine() -> Json:
    """What the figures are measured on; a child asks torch, so that no memory of the GPU is held here."""
    from tgsbench.system.gpus import driver, list_gpus

    argv = [sys.executable, "-m", "tgsbench.training.torch_info", "facts"]
    code, out, err = _run(argv, _environment(tiny=False), 120.0)
    facts = _last_document(out)
    problem = "" if code == 0 else (err.strip().splitlines() or ["torch did not answer"])[-1]
    devices = facts.get("devices", [])
    gpus = list_gpus()
    return {
        "gpu": devices[0] if devices else "",
        "problem": facts.get("cuda_problem", problem),
        "memory_gib": round(gpus[0].memory_gib, 2) if gpus else None,
        "driver": driver()[0],
        "torch": facts.get("torch", ""),
        "cuda": facts.get("cuda_build", ""),
        "cudnn": facts.get("cudnn", ""),
        "nccl": facts.get("nccl", ""),
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
        "kernels": facts.get("kernels", {}),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def new_file(gpu: str, folder: Path) -> Path:
    """<gpu>-<date>.json, numbered where the day has one already: no measurement replaces another."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    stem = f"{slug}-{datetime.datetime.now(datetime.UTC).date()}"
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    return path


def store(report: Json, path: Path) -> None:
    """Write the report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
