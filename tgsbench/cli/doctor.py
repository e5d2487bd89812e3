"""`tgsbench doctor`: is this machine fit to measure on?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode
from tgsbench.store import run_dir
from tgsbench.system.doctor import DoctorCheck, iter_checks, worst
from tgsbench.systems import registry
from tgsbench.virtual_gpu.checks import virtual_checks


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--virtual-gpu", "virtual_gpu", is_flag=True, help="What `run --virtual-gpu` needs, instead.")
def doctor(as_json: bool, folder: Path | None, virtual_gpu: bool) -> None:
    """Check Python, torch, GPUs and their links, ranks that talk, disk, limits, the hub."""
    groups: dict[int, list[DoctorCheck]] = {}
    for place, found in _groups(run_dir.runs_root(folder), virtual_gpu):
        groups[place] = found
        for check in found if not as_json else ():
            output.line(_line(check))
    checks = [check for place in sorted(groups) for check in groups[place]]
    level = worst(checks)
    if as_json:
        output.json({"level": level, "checks": msgspec.to_builtins(checks)})
    sys.exit(ExitCode.VERIFY_FAILED if level == "failure" else ExitCode.OK)


def _groups(root: Path, virtual_gpu: bool) -> Iterator[tuple[int, list[DoctorCheck]]]:
    """Groups of checks as they end, each with its place in the whole list."""
    if virtual_gpu:
        yield from enumerate([check] for check in virtual_checks())
        return
    diagnostics.note("looking at this machine; torch takes some seconds …")
    yield from iter_checks(root, None, registry.engine_distributions())


def _line(check: DoctorCheck) -> str:
    line = f"{check.marked:<7} {check.what:<13} {check.found}"
    return f"{line}\n{'':<21} try: {check.remedy}" if check.remedy else line
