"""What the terminal UI's list of runs costs: `python -m benchmarks.run_list [--runs 1000] [--against TREE]`.

In turns: this tree's list, that of another tree (an earlier version) if one is named, and `tgsbench runs`.
Processor time from the key that opens the list until it says that all runs are there, in a real
pseudo-terminal whose first screen has settled; then the share of a core while nothing happens. Each tree has
a copy of the store of its own, listed once before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import pairs
from benchmarks.runs_index import list_runs
from benchmarks.tui import ROOT, Terminal
from tests.unit.stored import store_run
from tgsbench import presets

IDLE_BOUND = 0.02
_QUIET = 0.03
"""Share of a core below which a screen has settled."""
_LIMIT_S = 600.0


class Listed(NamedTuple):
    """One opening of the list."""

    wall_s: float
    cpu_s: float
    idle_share: float
    peak_mb: float


def main() -> None:
    """Make the runs, list them in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0, help="Seconds to watch the list do nothing.")
    parser.add_argument("--against", type=Path, help="Root of another version's source tree.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    trees = {"list": ROOT} | ({"list before": args.against.resolve()} if args.against else {})
    with tempfile.TemporaryDirectory(prefix="tgsbench-list-") as temporary:
        folder = Path(temporary)
        make(folder / "index", args.runs)
        stores = {name: shutil.copytree(folder / "index", folder / name) for name in trees}
        found: dict[str, list[Listed]] = {name: [] for name in trees}
        index: list[float] = []
        for name, tree in trees.items():
            open_list(tree, stores[name], args.runs, 0.0, folder)
        list_runs(folder / "index")
        for _ in range(args.rounds):
            for name, tree in trees.items():
                found[name].append(open_list(tree, stores[name], args.runs, args.idle, folder))
            index.append(list_runs(folder / "index").cpu_s)
    report(found, index, args.runs, args.json)


def report(found: dict[str, list[Listed]], index: list[float], count: int, path: Path | None) -> None:
    """Medians, and ratios of processor times pair by pair."""
    for name, listed in found.items():
        wall_s, cpu_s, idle, peak_mb = (statistics.median(column) for column in zip(*listed, strict=True))
        verdict = "within" if idle <= IDLE_BOUND else "ABOVE"
        print(
            f"{name}: {count:,} runs in {wall_s:.2f} s, CPU {cpu_s:.2f} s, peak {peak_mb:.0f} MB; "
            f"idle {idle:.2%} of a core: {verdict} {IDLE_BOUND:.0%} (medians)"
        )
    print(f"load {' '.join(f'{value:.1f}' for value in os.getloadavg())}")
    cpu = {name: [each.cpu_s for each in listed] for name, listed in found.items()}
    ratios = [pairs.ratio("CPU", name, "tgsbench runs", cpu[name], index, "no bound") for name in cpu]
    if "list before" in cpu:
        ratios.append(pairs.ratio("CPU", "list", "list before", cpu["list"], cpu["list before"], "below 1"))
    pairs.store(path, ratios)


def make(root: Path, count: int) -> None:
    """Write small finished runs."""
    preset = presets.resolve("tiny_cpu").preset
    for i in range(count):
        store_run(root, f"20260101T{i:06d}-tiny_cpu-{i:04x}", preset, created_unix=1.7e9 + i)


def open_list(tree: Path, store: Path, count: int, idle_s: float, folder: Path) -> Listed:
    """Start the UI, wait until it rests, open the list, wait until it is whole, watch it rest."""
    settings = folder / "config" / "tgsbench" / "tui.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("welcomed = true\n")
    env = {"XDG_CONFIG_HOME": str(folder / "config"), "TGSBENCH_RUNS": str(store)}
    window = Terminal("-m", "tgsbench", "tui", env=env, root=tree)
    try:
        window.until(b"presets, ")
        _settle(window)
        before_s, began_s = window.cpu_s(), time.perf_counter()
        os.write(window.fd, b"2")
        window.until(f"{count} of {count} runs".encode(), began_s - window.started + _LIMIT_S)
        wall_s, cpu_s = time.perf_counter() - began_s, window.cpu_s() - before_s
        return Listed(wall_s, cpu_s, _rest(window, idle_s), window.peak_mb())
    finally:
        window.close()


def _settle(window: Terminal) -> None:
    while _rest(window, 1.0) > _QUIET:
        continue


def _rest(window: Terminal, seconds: float) -> float:
    """Share of a core over some seconds."""
    if not seconds:
        return 0.0
    _, before_s, began_s = window.read(1.0), window.cpu_s(), time.perf_counter()
    window.read(seconds)
    return (window.cpu_s() - before_s) / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
