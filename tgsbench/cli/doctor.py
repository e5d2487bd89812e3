"""`tgsbench doctor`: is this machine fit to measure on?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode
from tgsbench.store import run_dir
from tgsbench.system.doctor import DoctorCheck, iter_checks, worst
from tgsbench.systems import registry


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def doctor(as_json: bool, folder: Path | None) -> None:
    """Check Python, torch, GPUs and their links, ranks that talk, disk, limits, the hub."""
    diagnostics.note("looking at this machine; torch takes some seconds …")
    groups: dict[int, list[DoctorCheck]] = {}
    for place, found in iter_checks(run_dir.runs_root(folder), None, registry.engine_distributions()):
        groups[place] = found
        for check in found if not as_json else ():
            output.line(_line(check))
    checks = [check for place in sorted(groups) for check in groups[place]]
    level = worst(checks)
    if as_json:
        output.json({"level": level, "checks": msgspec.to_builtins(checks)})
    sys.exit(ExitCode.VERIFY_FAILED if level == "failure" else ExitCode.OK)


def _line(check: DoctorCheck) -> str:
    line = f"{check.marked:<7} {check.what:<13} {check.found}"
    return f"{line}\n{'':<21} try: {check.remedy}" if check.remedy else line
