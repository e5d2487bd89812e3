"""`tgsbench compare --engines … --virtual-gpu`: one rank of each engine on a GPU that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tgsbench import api
from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local
from tgsbench.launch.narration import Narrator
from tgsbench.report import virtual_table
from tgsbench.report.virtual_table import VirtualRow
from tgsbench.schema.run import Result
from tgsbench.systems import registry


def compare_virtually(
    name: str, engines: Sequence[str], sets: Sequence[str], gpu: str, root: Path, as_json: bool
) -> ExitCode:
    """Run rank 0 of each engine on the preset, one after the other, and print one table of their steps.

    An engine that cannot run, or fails, is a row with its cause; returns 0 when two have figures.
    """
    own = {engine: registry.assignments_for(engine, engines, sets) for engine in engines}
    rows = [_row(engine, name, assignments, gpu, root) for engine, assignments in own.items()]
    if as_json:
        output.json({"rows": rows})
    else:
        for line in virtual_table.lines(rows):
            output.line(line)
    ran = sum(row.status == "virtual" for row in rows)
    return ExitCode.OK if ran > 1 else ExitCode.NOT_COMPARABLE


def _row(engine: str, name: str, sets: Sequence[str], gpu: str, root: Path) -> VirtualRow:
    diagnostics.note(f"{engine} starts on a virtual {gpu}")
    try:
        result = _run(engine, name, sets, gpu, root)
    except TgsError as error:
        diagnostics.warn(f"{engine} does not take part: {error.msg}", error.hint)
        return VirtualRow(engine=engine, reason=error.msg)
    reason = result.failure.reason if result.failure else ""
    return VirtualRow(
        engine=engine, status=result.status, run=result.run_id, reason=reason, virtual=result.virtual
    )


def _run(engine: str, name: str, sets: Sequence[str], gpu: str, root: Path) -> Result:
    preset = api.load_preset(name, [*sets, f"engine.name={engine}"], virtual_gpu=gpu)
    virtual = api.on_virtual_gpu(preset, gpu)
    api.check_machine(preset, virtual=virtual)
    folder = api.prepare(preset, root, virtual=virtual)
    return local.supervise(folder, Narrator(preset, lambda text: diagnostics.note(f"{engine}: {text}")).hear)
