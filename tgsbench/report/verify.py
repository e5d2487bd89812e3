"""What `tgsbench verify` found, as a table for people."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from tgsbench.safe_files import printable
from tgsbench.schema.verify import Check, CheckName, Verification
from tgsbench.units import duration

TITLES: dict[CheckName, str] = {
    "oracle": "fp64 oracle",
    "update": "weights' update",
    "parity": "parity with one rank",
    "engines": "engine against engine",
    "labels": "labels, shard borders",
    "tokens": "distinct tokens",
    "all_to_all": "all-to-alls",
    "ring": "messages of the ring",
    "experts": "tokens to experts",
    "kv_hops": "keys between nodes",
    "shards": "gathers, reductions",
    "reduction": "gradient reduction",
    "mask": "document mask",
    "causality": "causal mask",
    "determinism": "two runs, bit for bit",
}
_MARKS = {"passed": ("✓ pass", "green"), "failed": ("✗ FAIL", "bold red"), "skipped": ("- skip", "yellow")}


def table(found: Verification) -> Table:
    """One row a check; the engine stands below its name, the bound below the figure: 80 columns hold it."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    view.add_column("check\nengine", no_wrap=True)
    view.add_column("", no_wrap=True)
    view.add_column("measured\nbound", justify="right", no_wrap=True)
    view.add_column("where it is worst\nwhat else must be said", overflow="fold")
    for check in found.checks:
        mark, style = _MARKS[check.status]
        figures = f"{check.measured}\n{check.bound}"
        cells = (f"{TITLES[check.name]}\n{check.engine}", figures, _remarks(check))
        title, measured, remarks = (Text(printable(cell)) for cell in cells)
        view.add_row(title, Text(mark, style), measured, remarks)
    return view


def verdict(found: Verification) -> str:
    """How many checks passed, failed and were skipped, and on what."""
    counts = [f"{found.num_passed} of {len(found.checks)} checks passed"]
    counts += [f"{found.num_failed} failed"] if found.num_failed else []
    counts += [f"{found.num_skipped} skipped (no proof either way)"] if found.num_skipped else []
    return (
        f"{found.preset}: {', '.join(counts)} in {duration(found.wall_s)}\n"
        f"on a shrunken model: {found.what}, {found.num_steps} steps of random tokens\n{found.unseen}"
    )


def _remarks(check: Check) -> str:
    return "\n".join(filter(None, (check.worst, check.note)))
