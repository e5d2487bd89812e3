"""A run as text to paste elsewhere: its command, a markdown row, JSON."""

from __future__ import annotations

import shlex

import msgspec

from tgsbench import units
from tgsbench.models.flops import XTUNER
from tgsbench.report.forecast import mfu_text
from tgsbench.results import results
from tgsbench.schema.run import Result
from tgsbench.store.run_dir import RunDir

FORMS = (
    ("command", "the command that runs its preset again"),
    ("markdown", "a markdown table row"),
    ("JSON", "JSON, all of result.json"),
    ("", "nothing"),
)


def render(run: RunDir, form: str) -> str:
    """The text of one form. Raises TgsError when the run cannot be read."""
    if form == "command":
        return shlex.join(["tgsbench", "run", "--preset", str(run.path / "preset.toml"), "--headless"])
    result = results.load_result(run)
    if form == "markdown":
        return markdown_row(result)
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode()


def markdown_row(result: Result) -> str:
    """Header and row of one result; pipes in names are escaped."""
    tgs = result.tgs
    interval = f"{units.rate(tgs.ci95[0])} to {units.rate(tgs.ci95[1])}" if tgs.ci95 else "-"
    tflops = result.tflops.get(XTUNER)
    cells = {
        "preset": result.preset + (" (rehearsal)" if result.rehearsal_of else ""),
        "status": result.status,
        "engine": result.engine,
        "GPUs": f"{result.world_size} x {result.device}",
        "length": units.length(result.seq_len),
        "sp": str(result.sp),
        "TGS": "-" if tgs.median is None else units.rate(tgs.median),
        "95 % interval": interval,
        "n": str(tgs.n),
        f"TFLOPs ({XTUNER})": "-" if tflops is None else units.rate(tflops),
        "MFU (model)": mfu_text(result.mfu, result.mfu_bf16) or "-",
    }
    rows = [list(cells), ["---"] * len(cells), [value.replace("|", "\\|") for value in cells.values()]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
