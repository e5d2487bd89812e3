"""Every CUDA preset as one rank of its world on a virtual GPU, beside the plan: memory, calls, bytes.

python -m benchmarks.virtual_presets [PRESET …] [--engine NAME …] [--set KEY=V …] [--gpu NAME]
    [--rows FILE] [--root FOLDER] [--table]

Each preset runs once under each engine, on the GPU that it names. A row is kept in `--rows` as it comes, the
runs in `--root` where one is named (virtual_clock.py reads them);
`--table` runs nothing and prints the kept rows beside what this tree plans. Needs `make virtual-gpu`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import tgsbench
from tgsbench import api, presets
from tgsbench.errors import TgsError
from tgsbench.schema.run import CallCount, Result, VirtualClock
from tgsbench.units import GIB
from tgsbench.virtual_gpu.account import expect, planned_on_device

ALLOCATED_SHARE, RESERVED_SHARE = 0.03, 0.06
"""By how much the plan may miss what torch's allocator held in tensors, and in all."""
SENT_SHARE = {"all_to_all": 1e-9, "ring": 1e-9}
"""By how much bytes may miss the plan; gathered and scattered ones by 1 %: DeepSpeed decides as it goes."""


class Held(Struct, kw_only=True):
    """What one preset's rank did."""

    preset: str
    engine: str
    gpu: str
    sets: list[str] = []
    status: str
    why: str = ""
    """Where it did not run to its end."""
    run: str = ""
    """Its folder, where runs are kept."""
    allocated_gib: float = 0.0
    reserved_gib: float = 0.0
    collectives: list[CallCount] = []
    launches: int = 0
    host_s: float = 0.0
    clock: VirtualClock | None = None


def main() -> None:
    """Run what is asked for, or print what is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=[])
    parser.add_argument("--engine", action="append", default=[])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--gpu", default="", help="another GPU than the preset's")
    parser.add_argument("--rows", type=Path, default=Path("virtual_presets.jsonl"))
    parser.add_argument("--root", type=Path, help="folder that keeps the runs")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        for name in args.presets or cuda_presets():
            for engine in args.engine or ["fsdp2"]:
                held = run_one(name, engine, args.gpu, args.sets, args.root)
                with args.rows.open("ab") as rows:
                    rows.write(msgspec.json.encode(held) + b"\n")
                print(line_of(held), flush=True)
        return
    print_table(read_rows(args.rows))


def cuda_presets() -> list[str]:
    """Names of the shipped presets for GPUs."""
    names = presets.list_presets()
    return [name for name in names if presets.resolve(name).preset.hardware.device == "cuda"]


def run_one(name: str, engine: str, gpu: str, sets: list[str], root: Path | None) -> Held:
    """One rank of one preset; what no such run can be is a row too."""
    gpu = gpu or presets.resolve(name).preset.hardware.gpu
    asked = [*sets, f"engine.name={engine}"]
    row = Held(preset=name, engine=engine, gpu=gpu, sets=sets, status="refused")
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = tgsbench.run(name, asked, virtual_gpu=gpu, root=root or folder)
        except TgsError as error:
            return replace(row, why=error.msg)
    return _held(row, result, root)


def _held(row: Held, result: Result, root: Path | None) -> Held:
    virtual, failure = result.virtual, result.failure
    assert virtual is not None
    return replace(
        row,
        status=result.status,
        run=str(root / result.run_id) if root else "",
        why=failure.reason if failure else "; ".join(result.integrity.problems),
        allocated_gib=max((peak.allocated_gib or 0.0 for peak in virtual.peaks), default=0.0),
        reserved_gib=max((peak.reserved_gib for peak in virtual.peaks), default=0.0),
        collectives=virtual.collectives,
        launches=virtual.launches,
        host_s=virtual.host_s,
        clock=virtual.clock,
    )


def read_rows(path: Path) -> list[Held]:
    """The last row of each preset, engine and settings."""
    rows = [msgspec.json.decode(line, type=Held) for line in path.read_bytes().splitlines()]
    return list({(row.preset, row.engine, *row.sets): row for row in rows}.values())


def print_table(rows: Iterable[Held]) -> None:
    """Each row beside the plan, and how many are within the bounds."""
    print(f"{'preset':36} {'engine':9} {'tensors':>8} {'planned':>8} {'':7} {'reserved':>8} {'planned':>8}")
    rows = list(rows)
    for row in rows:
        print(line_of(row))
    whole = [row for row in rows if row.status == "virtual"]
    good = [row for row in whole if not _misses(row)]
    print(f"{len(rows)} rows, {len(whole)} run, {len(good)} of them as planned")


def line_of(row: Held) -> str:
    """One row of the table."""
    name = f"{row.preset} {' '.join(row.sets)}".strip()
    if row.status != "virtual":
        return f"{name:36} {row.engine:9} {row.status}: {row.why}"
    tensors, reserved = planned(row)
    cells = (
        f"{gib:8.2f} {plan:8.2f} {100 * (plan / gib - 1):+6.1f}%"
        for gib, plan in ((row.allocated_gib, tensors), (row.reserved_gib, reserved))
    )
    over = row.reserved_gib / row.allocated_gib
    return f"{name:36} {row.engine:9} {' '.join(cells)} {over:5.2f}  {'; '.join(_misses(row))}"


def planned(row: Held) -> tuple[float, float]:
    """GiB in tensors and reserved by the allocator, as this tree plans them for torch's own attention."""
    memory = planned_on_device(_preset(row), "sdpa")
    return memory.tensor_bytes / GIB, (memory.tensor_bytes + memory.peak.items["allocator"]) / GIB


def _preset(row: Held) -> api.Preset:
    return api.load_preset(row.preset, [*row.sets, f"engine.name={row.engine}"], virtual_gpu=row.gpu)


def _misses(row: Held) -> list[str]:
    """What is further from the plan than it may be."""
    tensors, reserved = planned(row)
    found = [f"integrity: {row.why}"] if row.why else []
    if abs(row.allocated_gib / tensors - 1) > ALLOCATED_SHARE:
        found.append("tensors")
    if abs(row.reserved_gib / reserved - 1) > RESERVED_SHARE:
        found.append("reserved")
    counts = [replace(count, calls_expected=None, gib_expected=None) for count in row.collectives]
    expect(counts, _preset(row))
    for count in counts:
        if count.calls_expected not in (None, count.calls):
            found.append(f"{count.calls:,} {count.name} of {count.group} for {count.calls_expected:,}")
        may = SENT_SHARE.get(count.name, 0.01)
        if count.gib_expected is not None and abs(count.gib - count.gib_expected) > may * count.gib_expected:
            found.append(f"{count.name} of {count.group}: {count.gib / count.gib_expected:.3f} x its bytes")
    return found


if __name__ == "__main__":
    main()
