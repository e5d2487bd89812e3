"""`tgsbench doctor`: is this machine fit to measure on?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode
from tgsbench.store import run_dir
from tgsbench.system.doctor import DoctorCheck, run_checks, worst
from tgsbench.systems import registry
from tgsbench.virtual_gpu.checks import virtual_checks


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--virtual-gpu", "virtual_gpu", is_flag=True, help="What `run --virtual-gpu` needs, instead.")
def doctor(as_json: bool, folder: Path | None, virtual_gpu: bool) -> None:
    """Check Python, torch, GPUs and their links, ranks that talk, disk, limits, the hub."""
    if virtual_gpu:
        checks = virtual_checks()
    else:
        diagnostics.note("looking at this machine; torch takes some seconds …")
        checks = run_checks(run_dir.runs_root(folder), engine_distributions=registry.engine_distributions())
    level = worst(checks)
    if as_json:
        output.json({"level": level, "checks": msgspec.to_builtins(checks)})
    else:
        for check in checks:
            output.line(_line(check))
    sys.exit(ExitCode.VERIFY_FAILED if level == "failure" else ExitCode.OK)


def _line(check: DoctorCheck) -> str:
    line = f"{check.marked:<7} {check.what:<13} {check.found}"
    return f"{line}\n{'':<21} try: {check.remedy}" if check.remedy else line
